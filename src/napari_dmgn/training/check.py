"""A look at the training data without training."""

from __future__ import annotations

import torch

from napari_dmgn.data import DataReport, collect
from napari_dmgn.data.collection import Arrays
from napari_dmgn.perceptual import VggFeatures
from napari_dmgn.training.depth import read_depth
from napari_dmgn.training.features import check_crops, read_features
from napari_dmgn.training.settings import TrainConfig

__all__ = ["check_data"]


def check_data(config: TrainConfig, *, arrays: Arrays = ()) -> DataReport:
    """Read everything that a training would read, and report what pairs with what and what is left out.

    Depth maps and the features of perceptual losses are read too, but nothing is downloaded.

    Raises
    ------
    ValueError
        A folder is missing or has no picture, `depth` or `features` cannot be read, or the crops are too
        small for the features. Too few usable pictures are part of the report.
    """
    weights = config.loss_weights()
    if config.features is not None and (weights.perceptual or weights.coarse_perceptual):
        check_crops(config, VggFeatures if config.features == "download" else read_features(config.features)[0])
    if config.depth is not None:
        read_depth(config.depth, config.largest_crop, torch.device("cpu"))
    return collect(
        config.source_specs(),
        crop=config.largest_crop,
        validation=config.validation_pictures,
        validation_crop=config.validation_crop,
        held_out=config.validation_spec(),
        arrays=arrays,
        checking=True,
    ).report
