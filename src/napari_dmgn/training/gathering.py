"""The pictures of a training, read for it or for a report."""

from __future__ import annotations

import torch

from napari_dmgn.data import Collection, DataReport, collect
from napari_dmgn.data.collection import Arrays
from napari_dmgn.perceptual import VggFeatures
from napari_dmgn.training.depth import read_depth
from napari_dmgn.training.features import check_crops, read_features
from napari_dmgn.training.settings import TrainConfig

__all__ = ["check_data", "gather"]


def gather(
    config: TrainConfig,
    *,
    arrays: Arrays = (),
    device: torch.device | str = "cpu",
    checking: bool = False,
) -> Collection:
    """Read the pictures that the settings name, and hold out those that are validated on.

    Parameters
    ----------
    config : TrainConfig
    arrays : pictures in memory, see `iter_train`
    device : where the training's pictures are kept
    checking : bool
        Too few usable pictures are then told in the report only.

    Raises
    ------
    ValueError
        A folder is missing or has no picture, there are too few, or those that are validated on never get noise.
    """
    collection = collect(
        config.source_specs(),
        crop=config.largest_crop,
        validation=config.validation_pictures,
        validation_crop=config.validation_crop,
        held_out=config.validation_spec(),
        arrays=arrays,
        device=device,
        checking=checking,
    )
    parts = {name for name, weight in config.degradation.items() if weight}
    if parts == {"none"} and collection.held.clean is not None and collection.held.pairs is None:
        raise ValueError("degradation has no part but none, which leaves nothing to validate on; wanted another too")
    return collection


def check_data(config: TrainConfig, *, arrays: Arrays = ()) -> DataReport:
    """Read everything that a training would read, and report what pairs with what and what is left out.

    Depth maps and the features of perceptual losses are read too, but nothing is downloaded.

    Raises
    ------
    ValueError
        A folder is missing or has no picture, those that are validated on never get noise, `depth` or
        `features` cannot be read, or the crops are too small for the features. Too few usable pictures
        are part of the report.
    """
    weights = config.loss_weights()
    if config.features is not None and (weights.perceptual or weights.coarse_perceptual):
        check_crops(config, VggFeatures if config.features == "download" else read_features(config.features)[0])
    if config.depth is not None:
        read_depth(config.depth, config.largest_crop, torch.device("cpu"))
    return gather(config, arrays=arrays, checking=True).report
