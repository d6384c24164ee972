"""The features that a run's perceptual losses compare by."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from napari_dmgn import perceptual, vgg_weights
from napari_dmgn.model.vgg import Vgg19
from napari_dmgn.paths import expanded
from napari_dmgn.training.settings import TrainConfig

__all__ = ["check_crops", "read_features"]


def read_features(source: str) -> tuple[nn.Module, str]:
    """Return features and the sha256 of the file that they are from.

    Parameters
    ----------
    source : str
        A safetensors file, see `perceptual.load_features`; torchvision's own .pth or .pt of VGG-19;
        "vgg19", that file downloaded earlier; or "download", which fetches it where it is missing.

    Raises
    ------
    ValueError
        There is no such file, or it holds something else.
    """
    if source in ("vgg19", "download"):
        return _vgg(vgg_weights.load(fetch=source == "download")), vgg_weights.SHA256
    path = expanded(source)
    if path.suffix.lower() in (".pth", ".pt"):
        features: nn.Module = _vgg(vgg_weights.load(path))
    else:
        features = perceptual.load_features(path)
    return features, hashlib.sha256(path.read_bytes()).hexdigest()


def check_crops(config: TrainConfig, features: object) -> None:
    """Raise ValueError where a phase has smaller crops than the features take.

    Parameters
    ----------
    config : TrainConfig
    features : callable or type
        Its `smallest`, where it has one, is asked.
    """
    crop, least = min(crop for _, crop, _ in config.phases), int(getattr(features, "smallest", 1))
    if crop < least:
        raise ValueError(f"phases have crops of {crop} px; the perceptual features wanted at least {least}")


def _vgg(weights: dict[str, Tensor]) -> perceptual.VggFeatures:
    vgg = Vgg19(image_channels=3)
    vgg.load_state_dict(weights)
    return perceptual.VggFeatures(vgg)
