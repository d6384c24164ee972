"""The two phases over a whole image, strip by strip: every row of every map is computed once."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from napari_dmgn.inference import row_operators  # noqa: F401 - teaches torch's functions what to do with rows
from napari_dmgn.inference.phases import Gains, WindowSums, add_up, autocast, on_device, read_window
from napari_dmgn.inference.planes import IMAGES, FloatArray, Mask, Part, Pixels
from napari_dmgn.inference.rows import Rows, Tape, align
from napari_dmgn.tiling import Span, Window

if TYPE_CHECKING:
    from napari_dmgn.inference.noise import NoiseStore
    from napari_dmgn.inference.plans import Plan
    from napari_dmgn.model.descriptor import Model
    from napari_dmgn.model.network import DMGN, NetworkOutput

__all__ = ["Strips"]


class Strips:
    """One phase over an image; the rows are given from top to bottom.

    Parameters
    ----------
    model : Model
    pixels : Pixels
    plan : Plan
    noise : NoiseStore or None
        Filled in phase 1, and read in phase 2 in place of generating the noise again.
    """

    def __init__(self, model: Model, pixels: Pixels, plan: Plan, noise: NoiseStore | None) -> None:
        self.model = model
        self.network = _lean(model.network, plan)
        self.pixels = pixels
        self.plan = plan
        self.noise = noise
        self.size = model.config.working_size(*plan.shape)
        self.tape = Tape()

    def sums(self, rows: tuple[int, int]) -> WindowSums:
        """Phase 1 over the next rows: what is known by now and was not before."""
        network = self.network.place(self.plan.device)
        with self.tape.strip(), torch.inference_mode(), autocast(self.plan):
            separated = network.separate(_posing(self._read(rows)))
            responses, noise_map = _rows(network.responses(separated)), separated.noise_map
            found = add_up(_data(responses), None if noise_map is None else _data(_rows(noise_map)))
            if self.noise is not None and separated.noise is not None:
                self.noise.put(_rows(separated.noise))
        return found

    def restore(self, rows: tuple[int, int], known: Gains, *, masks: bool) -> Part | None:
        """Phase 2 over the next rows; returns what is ready by now, None where nothing is."""
        network = self.network.place(self.plan.device)
        with self.tape.strip(), torch.inference_mode(), autocast(self.plan):
            noise = None
            if self.noise:
                noise = _posing(self.noise.get(self.tape, rows, self.plan.device))
            separated = network.separate(_posing(self._read(rows)), masks=masks, noise=noise)
            channels, map_range = on_device(known, self.plan.device)
            output = network.refine(separated, channels, map_range=map_range, masks=masks)
            part = self._part(output)
        if self.noise:
            self.noise.drop(rows)
        return part

    def _read(self, rows: tuple[int, int]) -> Rows:
        height, width = self.size
        window = Window(rows=Span(read=rows, paste=rows), columns=Span(read=(0, width), paste=(0, width)))
        part = torch.from_numpy(read_window(self.pixels, window)).to(self.plan.device)
        return Rows(self.tape, part, rows[0], (*part.shape[:2], height, width))

    def _part(self, output: NetworkOutput) -> Part | None:
        height, width = self.plan.shape
        maps = align(*(_rows(getattr(output, name)) for name in (*IMAGES, "noise_map")))
        masks = {name: m for name, mask in output.masks.items() if (m := self._mask(_rows(mask))) is not None}
        start = min(maps[0].start, height)
        stop = max(start, min(maps[0].stop, height))  # without the padding
        if start == stop and not masks:
            return None
        *images, noise_map = (_array(_data(m)[:, :, : stop - start, :width]) for m in maps)
        for image in images[:2]:
            np.clip(image, 0, 1, out=image)
        named = dict(zip(IMAGES, images, strict=True))
        return Part(rows=(start, stop), columns=(0, width), noise_map=noise_map[:, 0], masks=masks, **named)

    def _mask(self, mask: Rows) -> Mask | None:
        trunk = self.model.config.trunk_stride
        # Input pixels per position of the mask: a stride-2 convolution rounds an odd size up.
        cell = trunk << round(math.log2(self.size[0] / mask.shape[2] / trunk))
        height, width = (-(-length // cell) for length in self.plan.shape)
        stop = min(mask.stop, height)
        if mask.data is None or mask.start >= stop:
            return None
        values = _array(mask.data[:, 0, : stop - mask.start, :width])
        return Mask(rows=(mask.start, stop), columns=(0, width), size=(height, width), values=values)


def _lean(network: DMGN, plan: Plan) -> DMGN:
    """Return the network with its convolutions' weights in the number type that they are used in.

    Autocast would convert all of them again for every strip.
    """
    if plan.precision != "bf16":
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    return network


def _posing(rows: Rows) -> Tensor:
    """Hand rows to the network's code, which is written for tensors."""
    return cast("Tensor", rows)


def _rows(tensor: Tensor) -> Rows:
    """Take rows back."""
    return cast("Rows", tensor)


def _data(rows: Rows) -> Tensor:
    return torch.zeros((*rows.shape[:2], 0, rows.shape[3])) if rows.data is None else rows.data


def _array(x: Tensor) -> FloatArray:
    return np.array(x.float().cpu().numpy(), order="C", copy=True)
