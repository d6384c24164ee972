"""The released network as it is here, against its plain form: seconds, peak memory, multiplications done.

    python benchmarks/official.py                    # 256x256 and 512x512, float32 and bf16
    python benchmarks/official.py --sizes 256 --threads 1

The plain form has the same weights and gives the same images: the hypercolumn of 1475 channels at full
size, torch's own reflection padding, channels before rows, every map whole. Each case runs in a process
of its own, so that its peak memory is its own. Weights are random. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_dmgn.model import bands
from napari_dmgn.model.blocks import ReflectedConv2d
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.network import DMGN
from napari_dmgn.model.vgg import HypercolumnHead

FORMS = ("plain", "ours")
PRECISIONS = ("float32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=[n for n in PRESETS if n.startswith("official-")], default="official-rain")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of ours; the plain form is timed once")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        form, precision, size = args.case
        print(json.dumps(measure(args.preset, form, precision, int(size), args.threads, args.repeat)))
        return
    print(f"{args.preset}, torch {torch.__version__}, {args.threads} threads, ours best of {args.repeat}\n")
    print("| size | precision | form | seconds | faster | peak memory, GB | GMAC done | largest difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in args.sizes:
        for precision in args.precisions:
            rows = {form: case(args, form, precision, size) for form in FORMS}
            plain = rows["plain"]
            for form, row in rows.items():
                ratio = f"{plain['seconds'] / row['seconds']:.1f} x"
                difference = max(abs(a - b) for a, b in zip(row["sample"], plain["sample"], strict=True))
                cells = [f"{size}x{size}", precision, form, f"{row['seconds']:.2f}", ratio]
                cells += [f"{row['peak_bytes'] / 1e9:.2f}", f"{row['macs'] / 1e9:.0f}", f"{difference:.1e}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def case(args: argparse.Namespace, form: str, precision: str, size: int) -> dict[str, Any]:
    """Measure one case in a fresh process."""
    command = [sys.executable, __file__, "--preset", args.preset, "--case", form, precision, str(size)]
    command += ["--threads", str(args.threads), "--repeat", str(args.repeat)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


@torch.inference_mode()
def measure(preset: str, form: str, precision: str, size: int, threads: int, repeat: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = DMGN(PRESETS[preset]).eval().requires_grad_(False)
    if form == "plain":
        bands.LARGE, repeat, network = sys.maxsize, 1, plain(network)
    else:
        network.place("cpu")
    image = torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(1))
    seconds = []
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        background = network(image).background
        for _ in range(repeat):
            start = time.perf_counter()
            network(image)
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with FlopCounterMode(display=False) as counter:  # afterwards: it holds on to memory
            network(image)
    return {
        "seconds": min(seconds),
        "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "macs": counter.get_total_flops() // 2,  # a multiplication and an addition are one
        "sample": background[0, :, :: size // 16, :: size // 16].flatten().tolist(),
    }


class PlainHead(nn.Module):
    """The hypercolumn as the paper puts it: every level enlarged, all concatenated, then convolved."""

    def __init__(self, head: HypercolumnHead) -> None:
        super().__init__()
        self.vgg, self.mix, self.out = head.vgg, head.mix, head.out

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous()
        size = image.shape[2:]
        levels = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in self.vgg(image)]
        return torch.relu(self.out(torch.relu(self.mix(torch.cat([image, *levels], dim=1)))))


def plain(network: DMGN) -> DMGN:
    """Return the network in its plain form; takes the weights over."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, ReflectedConv2d):
                setattr(parent, name, _with_torchs_padding(module))
    network.head = PlainHead(network.head)
    return network


def _with_torchs_padding(ours: ReflectedConv2d) -> nn.Conv2d:
    convolution = nn.Conv2d(
        ours.in_channels,
        ours.out_channels,
        ours.kernel_size,
        stride=ours.stride,
        padding=ours.padding,
        dilation=ours.dilation,
        groups=ours.groups,
        bias=ours.bias is not None,
        padding_mode="reflect",
    )
    convolution.load_state_dict(ours.state_dict())
    return convolution.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
