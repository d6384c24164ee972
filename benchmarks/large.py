"""Restore a large memory-mapped image into memory-mapped results: memory above them, and time per megapixel.

    python benchmarks/large.py --folder DIR              # 10,000 x 10,000, beside 2 megapixels
    python benchmarks/large.py --folder DIR --side 4096

DIR takes the image and the results (33 bytes a pixel) in files that are removed at the end. Prints JSON: seconds
per megapixel of both sizes and their ratio, and the peaks of the process's anonymous memory (arrays that are mapped
from files do not count) and of what it holds resident in all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from napari_dmgn import zoo
from napari_dmgn.api import iter_restore_into
from napari_dmgn.images import output_arrays, read_layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--model", default="rain")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeat", type=int, default=3, help="of the 2 megapixels")
    args = parser.parse_args()
    model = zoo.load_model(zoo.find_model(args.model).path)
    settings = {"model": model, "precision": args.precision}
    small = []
    for _ in range(args.repeat + 1):
        image = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
        small.append(timed(image, {}, settings)["seconds"] / 1024 / 2048 * 1e6)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        shape = (args.side, args.side, 3)
        image = np.memmap(Path(folder) / "image", np.uint8, "w+", shape=shape)
        random = np.random.default_rng(0)
        for row in range(0, args.side, 256):
            image[row : row + 256] = random.integers(0, 256, image[row : row + 256].shape, dtype=np.uint8)
        arrays = output_arrays(read_layout(shape), image.dtype)
        out = {name: np.memmap(Path(folder) / name, kind, "w+", shape=size) for name, (size, kind) in arrays.items()}
        with Watch() as watch:
            large = timed(image, out, settings)
    each = large["seconds"] / args.side**2 * 1e6
    report = {
        "side": args.side,
        "seconds": large["seconds"],
        "seconds_per_megapixel": each,
        "seconds_per_megapixel_of_2_megapixels": min(small[1:]),
        "ratio": each / min(small[1:]),
        "longest_step_seconds": large["longest"],
        "peak_anonymous_bytes": watch.peaks.get("RssAnon"),
        "peak_resident_bytes": watch.peaks.get("VmRSS"),
        "provenance": large["provenance"],
    }
    print(json.dumps(report, indent=2))


def timed(image: np.ndarray, out: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    started = last = time.perf_counter()
    longest, provenance = 0.0, {}
    for event in iter_restore_into(image, out, **settings):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        if event.restoration is not None:
            provenance = event.restoration.provenance
    return {"seconds": time.perf_counter() - started, "longest": longest, "provenance": provenance}


class Watch:
    """The peaks of two numbers in Linux's /proc/self/status, in bytes."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in ("RssAnon", "VmRSS"):
                    self.peaks[name] = max(self.peaks.get(name, 0), int(rest.split()[0]) * 1024)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    main()
