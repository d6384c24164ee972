"""VGG-19's published weights for the feature head of the paper: from a file, or downloaded on request."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dmgn import checkpoint
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.files import replacing
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.official import read_pth

if TYPE_CHECKING:
    from torch import Tensor

    from napari_dmgn.model.network import DMGN

__all__ = ["SHA256", "URL", "cached_file", "download", "insert", "load", "new_model"]

log = logging.getLogger(__name__)

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""torchvision's file (VGG19_Weights.IMAGENET1K_V1), 575 MB."""
SHA256 = "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
"""Of the whole file; its first eight digits are in the file's name."""

# Where torchvision's `features` has the convolutions up to relu5_1, the last whose output is read.
_NUMBERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
_BLOCK = 1 << 20
_TIMEOUT = 30  # seconds without a byte


def cached_file() -> Path:
    """Return where the downloaded file lies, or would lie: in the platform's place for a user's caches."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("napari-dmgn", appauthor=False)) / URL.rsplit("/", 1)[-1]


def load(
    path: str | Path | None = None, *, fetch: bool = False, progress: Callable[[int, int | None], object] | None = None
) -> dict[str, Tensor]:
    """Return the weights of VGG-19's first 13 convolutions, named as in `model.vgg.Vgg19`, in float32.

    Parameters
    ----------
    path : path or None
        A ``.safetensors`` file, or a PyTorch checkpoint that is read as weights only, with
        torchvision's names ``features.0.weight``, ``features.0.bias``, ...; what follows them is not
        used. None is the file downloaded earlier.
    fetch : bool
        Download that file if it is not there; never done unasked.
    progress : function or None
        Called while downloading with the bytes done and the bytes in all, where the server tells.

    Raises
    ------
    CheckpointError
        There is no file, it cannot be downloaded, its hash is not the published one, or its tensors
        are not VGG-19's; one line that says how to get the file.
    """
    if path is None:
        path = cached_file()
        if fetch and not (path.exists() and _hash(path) == SHA256):
            download(progress)
        elif not path.exists():
            raise CheckpointError(f"VGG-19's weights are not on this machine; {_advice()}")
        elif (found := _hash(path)) != SHA256:
            raise CheckpointError(f"{path} is damaged: its sha256 is {found}, wanted {SHA256}; {_advice()}")
    path = Path(path)
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pth(path)
        return _convolutions(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; {_advice()}") from error


def download(progress: Callable[[int, int | None], object] | None = None) -> Path:
    """Download torchvision's file into the cache; it appears there whole and checked, or not at all.

    Raises
    ------
    CheckpointError
        The server cannot be reached, or what it sends has another hash.
    OSError
        The cache cannot be written.
    """
    path = cached_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s to %s", URL, path)
    with replacing(path) as file:
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(URL, timeout=_TIMEOUT) as response:
                size = response.headers.get("Content-Length")
                total = int(size) if size and size.isdecimal() else None
                while block := response.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
                    if progress is not None:
                        progress(file.tell(), total)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise CheckpointError(f"cannot download {URL}: {reason}; {_advice(again=False)}") from error
        if total is not None and file.tell() < total:
            raise CheckpointError(f"{URL} broke off after {file.tell()} of {total} bytes; {_advice(again=False)}")
        if digest.hexdigest() != SHA256:
            raise CheckpointError(
                f"{URL} sent a file of sha256 {digest.hexdigest()}, wanted {SHA256}: nothing kept; "
                f"{_advice(again=False)}"
            )
    return path


def insert(network: DMGN, weights: Mapping[str, Tensor]) -> None:
    """Put `load`'s weights into the network's feature head, where they stay frozen.

    Raises
    ------
    ValueError
        The network's head is not VGG-19's, or does not take images of three channels.
    """
    from napari_dmgn.model.vgg import HypercolumnHead

    if not isinstance(network.head, HypercolumnHead):
        raise ValueError(f"the network's head is {network.config.head!r}; wanted 'vgg19'")
    if network.config.trunk_stride != 1:
        raise ValueError(f"trunk_stride is {network.config.trunk_stride}; VGG-19's weights want 1, an RGB image")
    network.head.vgg.load_state_dict(dict(weights))


def new_model(
    output: str | Path,
    config: NetworkConfig,
    *,
    task: str = "rain",
    vgg19: str | Path | None = None,
    fetch: bool = False,
    seed: int = 0,
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Write an untrained model, for a training to start from.

    Parameters
    ----------
    output : path
        Ends in ``.safetensors``; replaced where it exists.
    config : NetworkConfig
    task : str
        What it will be trained for.
    vgg19, fetch, progress
        Where the head is VGG-19's: as of `load`.
    seed : int
        Of the random weights.

    Raises
    ------
    CheckpointError
        See `load`; nothing is written.
    """
    import torch

    from napari_dmgn.model.network import DMGN

    output = Path(output)
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {str(output)!r}; wanted a name that ends in .safetensors")
    if config.head != "vgg19" and (vgg19 is not None or fetch):
        raise ValueError(f"VGG-19's weights are named, but the network's head is {config.head!r}")
    weights = load(vgg19, fetch=fetch, progress=progress) if config.head == "vgg19" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DMGN(config)
    card: dict[str, Any] = {
        "name": output.stem,
        "untrained": True,
        "training": f"none: random weights of seed {seed}, for a training to start from",
    }
    if weights is not None:
        insert(network, weights)
        card["vgg19"] = "torchvision's " + URL.rsplit("/", 1)[-1] if vgg19 is None else Path(vgg19).name
    checkpoint.save(output, network, task=task, card=card)


def _advice(*, again: bool = True) -> str:
    ways = "ask for its download (--vgg19 download), or " if again else ""
    return f"{ways}get {URL} by other means and name the file (--vgg19 FILE)"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load_file(path))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or 'no such file'}") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError("not a safetensors file") from error


def _convolutions(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    from napari_dmgn.model.vgg import Vgg19

    with torch.device("meta"):
        wanted = Vgg19(image_channels=3).state_dict()
    weights = {}
    for i, number in enumerate(_NUMBERS):
        for kind in ("weight", "bias"):
            key, name = f"features.{number}.{kind}", f"convs.{i}.{kind}"
            if key not in content:
                raise CheckpointError(f"no VGG-19: there is no tensor {key}")
            tensor, shape = content[key], tuple(wanted[name].shape)
            if tuple(tensor.shape) != shape:
                raise CheckpointError(f"no VGG-19: {key} has shape {tuple(tensor.shape)}, wanted {shape}")
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise CheckpointError(f"no VGG-19: {key} is not of finite floats")
            weights[name] = tensor.detach().float().contiguous()
    return weights
