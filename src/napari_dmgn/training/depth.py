"""Depth maps for haze."""

from __future__ import annotations

from dataclasses import replace

import torch

from napari_dmgn.data import Picture, PicturePool, depth_maps, find_pictures, read_pictures

__all__ = ["read_depth"]


def read_depth(folder: str, least: int, device: torch.device) -> PicturePool:
    """Read a folder's depth maps, each stretched to [0, 1]: 0 near, 1 far.

    Files named *_depth are the maps where there are any, so that a folder may hold the pictures too.
    Maps smaller than `least` pixels a side are enlarged.

    Raises
    ------
    ValueError
        The folder has no picture, or a map cannot be read.
    """
    paths = depth_maps(find_pictures(folder))
    return PicturePool([_stretched(picture, least) for path in paths for picture in read_pictures(path)], device)


def _stretched(picture: Picture, least: int) -> Picture:
    depth = picture.pixels.float().mean(dim=1, keepdim=True)  # (1, 1, H, W)
    low, high = depth.amin(), depth.amax()
    depth = (depth - low) / (high - low).clamp_min(1e-6)
    if picture.side < least:
        scale = least / picture.side
        size = [max(least, round(n * scale)) for n in depth.shape[-2:]]
        depth = torch.nn.functional.interpolate(depth, size, mode="bilinear", align_corners=False)
    return replace(picture, pixels=depth.half())
