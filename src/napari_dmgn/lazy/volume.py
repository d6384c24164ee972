"""A volume that is known by its shape only: its frames, the windows of a frame, and the recipe of both."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_dmgn import __version__, zoo
from napari_dmgn.api import arguments
from napari_dmgn.api.job import batches
from napari_dmgn.devices import resolve_device
from napari_dmgn.images import IntensityRange, Layout, check_image, check_range, read_layout
from napari_dmgn.lazy.recipe import ModelSource, Recipe
from napari_dmgn.model.config import NetworkConfig
from napari_dmgn.tiling import Span, Window

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from napari_dmgn.model.descriptor import Model

__all__ = ["Volume", "describe"]

_LOG = logging.getLogger(__name__)

_APPROXIMATE = "tiles are approximate: this network's result depends on where a pixel lies in what it is given"
_CHUNK = 512  # rows and columns of a chunk on the disk
_LARGEST_TILE = 2048  # of "auto": a larger one gains little and is no share of a cluster's work


@dataclass(frozen=True, kw_only=True)
class Volume:
    """What there is to do.

    Attributes
    ----------
    layout : the axes of the array
    dtype : of the array
    wanted_range : as in `restore`
    recipe : what each window is restored by
    rows, columns : spans of the windows of a frame along each axis
    provenance : as in `Restoration`, as far as it is known before the work
    """

    layout: Layout
    dtype: np.dtype[Any]
    wanted_range: IntensityRange
    recipe: Recipe
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    provenance: dict[str, Any]

    @property
    def batches(self) -> list[range]:
        """Frames that pass the network together, as in `restore`: small ones are faster so."""
        return batches(self.layout, self.recipe.config)

    def warn(self) -> None:
        """Log what the results will not be, which the provenance has as fallbacks."""
        for text in self.provenance["fallbacks"]:
            _LOG.warning("model %r: %s; tile=None restores whole frames", self.provenance["model"], text)

    @property
    def windows(self) -> list[Window]:
        """The windows of a frame, row by row."""
        return [Window(rows=rows, columns=columns) for rows in self.rows for columns in self.columns]


def describe(
    shape: tuple[int, ...],
    own: np.dtype[Any],
    task: str,
    *,
    model: str | Path | Model | None,
    channel_axis: int | None,
    rgb: bool | None,
    intensity_range: IntensityRange,
    device: str,
    precision: str,
    tile: int | str | None,
    halo: int | str,
    dtype: npt.DTypeLike,
    regular: bool = False,
) -> Volume:
    """Check the arguments, which are those of `restore`, and cut the frames into windows.

    Parameters
    ----------
    shape, own : of the array, and its dtype
    regular : let all windows but the last of an axis contribute the same number of pixels

    Raises
    ------
    ValueError
        If an argument cannot be served.
    """
    check_image(np.broadcast_to(np.zeros((), own), shape))
    layout = read_layout(shape, channel_axis=channel_axis, rgb=rgb)
    chosen = _chosen(arguments.find_source(model, arguments.check_task(task)))
    arguments.check_engine(_device_here(device), precision, tile, halo)
    wanted = check_range(intensity_range)
    cut = _cut(chosen.config, layout.frame_shape, device, precision, tile, halo, regular)
    recipe = Recipe(
        model=chosen.model,
        shape=layout.frame_shape,
        rgb=layout.rgb,
        dtype=arguments.check_dtype(dtype, own),
        device=device,
        precision=precision,
        tile=cut.tile,
        halo=cut.halo,
        config=chosen.config,
    )
    provenance = {
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": task,
        "model": chosen.name,
        "model_task": chosen.task,
        "sha256": chosen.sha256,
        "device": device,
        "precision": precision,
        "tile": cut.tile,
        "halo": cut.halo,
        "downscale": 1,
        "ensemble": False,
        "windows": len(batches(layout, chosen.config)) * len(cut.rows) * len(cut.columns),
        "fallbacks": [] if chosen.config.exact_tiles or cut.tile is None else [_APPROXIMATE],
        "shape": list(shape),
        "dtype": own.str,
        "axes": list(layout.axes),
        "intensity_range": wanted if isinstance(wanted, str) else list(wanted),
    }
    return Volume(
        layout=layout,
        dtype=own,
        wanted_range=wanted,
        recipe=recipe,
        rows=cut.rows,
        columns=cut.columns,
        provenance=provenance,
    )


def _device_here(device: str) -> str:
    """Return the device to plan for: a worker may have a graphics card that this machine lacks."""
    try:
        return resolve_device(device)
    except ValueError:
        if not isinstance(device, str) or device.split(":")[0] not in ("cuda", "mps"):
            raise
        return "cpu"


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A model, as far as it has to be known before any work."""

    model: ModelSource | Model
    config: NetworkConfig
    name: str
    task: str
    sha256: str


def _chosen(source: zoo.ModelInfo | Model) -> _Chosen:
    if isinstance(source, zoo.ModelInfo):
        file = ModelSource(name=source.name, path=str(source.path.resolve()), sha256=source.sha256)
        config = NetworkConfig.from_dict(source.config)
        return _Chosen(model=file, config=config, name=source.name, task=source.task, sha256=source.sha256)
    about = source.metadata
    model: ModelSource | Model = source
    if about.path is not None and about.path.is_file():
        info = zoo.find_model(about.path)
        if info.sha256 == about.sha256:  # a path is lighter than weights
            model = ModelSource(name=info.name, path=str(info.path.resolve()), sha256=info.sha256)
    return _Chosen(model=model, config=source.config, name=about.name, task=about.task, sha256=about.sha256)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    tile: int | None
    halo: int


def _cut(
    config: NetworkConfig,
    shape: tuple[int, int],
    device: str,
    precision: str,
    tile: int | str | None,
    halo: int | str,
    regular: bool,
) -> _Cut:
    from napari_dmgn.inference import plan

    sized = cast("Model", SimpleNamespace(config=config))  # all of a model that a plan looks at
    here = _device_here(device)
    made = plan(sized, shape, device=here, precision=precision, tile=tile, halo=halo)
    side = made.tile or max(shape)
    if tile == "auto":
        side = min(side, _LARGEST_TILE)
    if regular and side > _CHUNK:
        side = max(_CHUNK, side // _CHUNK * _CHUNK) if tile == "auto" else -(-side // _CHUNK) * _CHUNK
    if side < max(shape):
        made = plan(sized, shape, device=here, precision=precision, tile=side, halo=halo)
    rows = tuple(dict.fromkeys(window.rows for window in made.parts))
    columns = tuple(dict.fromkeys(window.columns for window in made.parts))
    if regular and made.tile is not None:
        padded = config.working_size(*shape)
        rows, columns = (_regular(n, made.tile, made.halo, config.stride) for n in padded)
    return _Cut(rows=rows, columns=columns, tile=made.tile, halo=made.halo)


def _regular(length: int, tile: int, halo: int, stride: int) -> tuple[Span, ...]:
    halo = -(-halo // stride) * stride
    return tuple(
        Span(
            read=(max(0, start - halo), min(length, start + tile + halo)),
            paste=(start, min(start + tile, length)),
        )
        for start in range(0, length, tile)
    )
