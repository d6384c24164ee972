"""Draw the before/after sheets of haze and reflections that README shows, of scikit-image's own photographs.

    python docs/make_gallery.py                       # docs/haze_before_after.png, docs/reflection_before_after.png
    python docs/make_gallery.py haze --model FILE -o DIR

The sheet of rain is the one of `napari-dmgn demo`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import napari_dmgn as dmgn
from napari_dmgn import metrics, samples
from napari_dmgn.cli.sheet import Row, write_sheet
from napari_dmgn.images import saturate, unit_to_dtype

ROWS = {
    "haze": (
        samples.hazy_sample,
        (("rocket", "thin"), ("coffee", "medium"), ("astronaut", "dense"), ("chelsea", "coloured")),
    ),
    "reflection": (
        samples.reflection_sample,
        (("astronaut", "linear"), ("chelsea", "gamma"), ("coffee", "screen"), ("rocket", "sharp")),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(ROWS), metavar="haze|reflection")
    parser.add_argument("--model", help="a model's name or file (default: the task's own)")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    for task in args.tasks:
        make, chosen = ROWS[task]
        protocol = metrics.PROTOCOL_OF_TASK[task]
        rows = []
        for name, strength in chosen:
            sample = make(name, strength)
            result = dmgn.restore(sample.input, task, model=args.model)
            before, after = (metrics.psnr(image, sample.clean, protocol) for image in (sample.input, result.background))
            caption = f"{name}, {strength}: PSNR {before:.1f} dB before, {after:.1f} dB after ({protocol})"
            print(caption)
            noise = saturate(result.noise, np.uint8)[0]
            pictures = (sample.input, result.background, noise, unit_to_dtype(result.noise_map, np.uint8))
            rows.append(Row(caption, pictures))
        write_sheet(args.output / f"{task}_before_after.png", rows)


if __name__ == "__main__":
    main()
