"""Restore images: an array in, its clean background and noise out, one frame after the other."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_dmgn.api.arguments import (
    check_downscale,
    check_dtype,
    check_engine,
    check_ensemble,
    check_task,
    find_source,
)
from napari_dmgn.api.job import Job
from napari_dmgn.api.layers import is_layer, layers_of_viewers
from napari_dmgn.api.restoration import Events, Restoration, RestoreEvent
from napari_dmgn.images import IntensityRange, Results, check_image, check_range, read_layout

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["Events", "Restoration", "RestoreEvent", "iter_restore", "iter_restore_into", "restore"]


def restore(
    image: Any,
    task: str = "rain",
    *,
    model: "str | Path | Model | None" = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
    masks: bool = False,
    dtype: npt.DTypeLike = "same",
    progress: Callable[[RestoreEvent], object] | None = None,
) -> Restoration:
    """Separate an image into its clean background and what lies over it.

    Parameters
    ----------
    image : (..., H, W) or (..., H, W, 3 or 4) integers or floats
        Leading axes are frames, restored one by one. Never changed. Masked pixels are refused: fill
        them, with NaN where they are to be left out. Or an image layer of a viewer: its pixels (of
        several levels the finest) are read into memory.
    task : what to remove: rain, haze or reflection
    model : a model's name, a checkpoint file or a loaded model; None takes the task's own
    channel_axis : axis of channels that are restored each on its own
    rgb : whether the last axis is RGB or RGBA; None looks at the shape
    intensity_range : intensities that the network sees as 0 and 1, the same for all frames
        `"auto"` is 0..255 for uint8, 0 (or the least value, if negative) to the largest for other
        integers, 0..1 for floats within it and their extremes for others, for each channel of
        `channel_axis` alone. `"dtype"` is the limits of an integer type, and 0..1 for floats. What
        lies outside the range is kept.
    device : auto, cpu, cuda, cuda:1, mps
    precision : auto, bf16 or float32
    tile : side of the square windows in pixels; None takes the whole image at once
    halo : pixels that a window reads beyond what it writes, where `tile` is a number: the strips
        that `"auto"` cuts a large image into need none. With less than "exact" the provenance's
        `halo_error` is the largest difference, in units of the range, seen at three windows
    downscale : factor by which the image is made smaller for the network, as a whole number; 1 shows it every pixel
        What the network makes of the smaller image is carried back to all pixels: edges and texture of background and
        coarse are the image's own, noise and map are smooth. Haze and reflections in photographs of many pixels come
        out better so, and sooner; fine noise, such as rain, does not. `"auto"` follows the model's card: its
        `working_side` is the least shorter side, in pixels, that the network is to see. Without it, and with smaller
        images, it is 1. The provenance has the factor; `tile`, `halo` and masks are those of the smaller image.
    ensemble : whether the image is restored mirrored, too, and the mean of both is the result
        Better by a tenth or two of a decibel in small pictures, hardly in large ones, and up to twice as slow. Ten
        float32 values of every pixel that the network sees are kept in memory meanwhile, with `iter_restore_into` too.
    masks : also return the masks of the deep-masking cells
    dtype : type of the background; values are rounded and saturated, not rescaled
        As integers NaN is 0, and infinite pixels are the type's limits.
    progress : called with a `RestoreEvent` after every step: a window or strip, in each of two phases, and of a
        smaller image a strip that is carried back

    Returns
    -------
    Restoration
        NaN and infinite pixels stay as they were in `background`, of floats, and are 0 in `noise`.

    Raises
    ------
    ValueError
        If an argument cannot be served. It names the value seen and the value wanted.
    """
    if progress is not None and not callable(progress):
        raise ValueError(f"progress is a function of a RestoreEvent, or None; got {progress!r}")
    events = iter_restore(
        image,
        task,
        model=model,
        channel_axis=channel_axis,
        rgb=rgb,
        intensity_range=intensity_range,
        device=device,
        precision=precision,
        tile=tile,
        halo=halo,
        downscale=downscale,
        ensemble=ensemble,
        masks=masks,
        dtype=dtype,
    )
    with closing(events):  # also where `progress` raises
        for event in events:
            if progress is not None:
                progress(event)
            if event.restoration is not None:
                return event.restoration
    raise RuntimeError("the events ended without a restoration")


def iter_restore(
    image: Any,
    task: str = "rain",
    *,
    model: "str | Path | Model | None" = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
    masks: bool = False,
    dtype: npt.DTypeLike = "same",
) -> Events:
    """Restore an image window by window, as `restore` does, in steps that a caller can stop.

    The arguments are those of `restore` and are checked at once; work starts with the first event.
    There is one event after every step (a window or strip, in each of two phases, and of a smaller image
    a strip that is carried back) and a last one that carries the restoration.
    """
    return iter_restore_into(
        image,
        {},
        task,
        model=model,
        channel_axis=channel_axis,
        rgb=rgb,
        intensity_range=intensity_range,
        device=device,
        precision=precision,
        tile=tile,
        halo=halo,
        downscale=downscale,
        ensemble=ensemble,
        masks=masks,
        dtype=dtype,
    )


def iter_restore_into(
    image: Any,
    out: Mapping[str, Any],
    task: str = "rain",
    *,
    model: "str | Path | Model | None" = None,
    channel_axis: int | None = None,
    rgb: bool | None = None,
    intensity_range: IntensityRange = "auto",
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
    masks: bool = False,
    dtype: npt.DTypeLike = "same",
) -> Events:
    """Restore an image into given arrays, memory-mapped ones say, as soon as its parts are done.

    Parameters
    ----------
    out : arrays by the names background, noise, noise_map and coarse
        Of the shapes and types that `Restoration` has; None for a result that is not wanted, which
        then is empty. Results that are not named are made. What a stopped run has written stays.

    The other arguments are those of `restore`.
    """
    source = None
    if is_layer(image):
        image, source = layers_of_viewers().open_layer(image)
        rgb = source.rgb if rgb is None and channel_axis is None else rgb
    array = check_image(image)
    layout = read_layout(array.shape, channel_axis=channel_axis, rgb=rgb)
    kind = check_dtype(dtype, array.dtype)
    job = Job(
        image=array,
        layout=layout,
        wanted_range=check_range(intensity_range),
        results=Results(layout, kind, out),
        task=check_task(task),
        source=find_source(model, task),
        device=check_engine(device, precision, tile, halo),
        downscale=check_downscale(downscale),
        ensemble=check_ensemble(ensemble),
        engine={
            "device": device,
            "precision": precision,
            "tile": tile,
            "halo": halo,
            "masks": bool(masks),
        },
        layer=source,
    )
    return job.events()
