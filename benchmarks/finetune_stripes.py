"""Fine-tune the rain model to stripes from the widget: python benchmarks/finetune_stripes.py OUT [--minutes 3]

Opens napari with twelve of scikit-image's pictures, drives "Fine-tune model" as a user would (clean
layers, made stripes), waits for the verdict, and restores with the new model and with the one it started
from what the training has not seen: three striped pictures, and the plugin's sample "striped cells", whose
clean stack is known. Writes sheets and the scores to OUT. It needs a display
(xvfb-run -a -s "-screen 0 1440x900x24" will do); models and runs go to OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

# The widget holds the seventh, the ninth and the last out: of each sort one.
TRAINING = (
    "astronaut", "coins", "moon", "hubble_deep_field", "grass", "gravel",
    "camera", "coffee", "chelsea", "rocket", "retina", "brick",
)  # fmt: skip
UNSEEN = ("cell", "immunohistochemistry", "clock")
SIDE = 320


def picture(name: str) -> np.ndarray:
    """A scikit-image picture in gray, uint8, at most SIDE pixels a side."""
    from skimage import color, data, transform

    image = getattr(data, name)()
    gray = color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / np.iinfo(image.dtype).max
    factor = min(1.0, SIDE / min(gray.shape))
    size = [round(side * factor) for side in gray.shape]
    small = transform.resize(gray, size, anti_aliasing=True)
    top, left = ((side - min(side, SIDE)) // 2 for side in size)
    return np.rint(small[top : top + SIDE, left : left + SIDE] * 255).astype(np.uint8)


def striped(clean: np.ndarray, seed: int) -> np.ndarray:
    """Stripes as the widget's kind "Dark stripes" makes them."""
    import torch

    from napari_dmgn.synthesis import mixtures

    degrade = mixtures.mixture("stripes", {"dark": 1.0})
    planes = torch.from_numpy(clean / np.float32(255)).expand(1, 3, -1, -1).contiguous()
    pair = degrade(planes, torch.Generator().manual_seed(seed))
    return (pair.input[0, 0].numpy() * 255).round().astype(np.uint8)


def settle(seconds: float = 0.05) -> None:
    """Let Qt work for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def fine_tune(minutes: float, name: str, steps: int | None = None) -> dict[str, object]:
    """Train from the widget; return the scores that it showed."""
    import napari

    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    for title in TRAINING:
        viewer.add_image(picture(title), name=title)
    getattr(viewer, "canvas", viewer).grid.enabled = True  # napari 0.9 has moved it
    _, widget = viewer.window.add_plugin_dock_widget("napari-dmgn", "Fine-tune model")
    form = widget.form
    form.data_form.way_box.setCurrentText("Clean layers + made noise")
    form.data_form.all_button.click()
    form.data_form.kind_box.setCurrentText("Dark stripes (light sheet)")
    if steps is not None:
        form.budget_unit.setCurrentText("steps")
    form.budget_box.setValue(minutes if steps is None else steps)
    form.share_box.setValue(25)
    form.name_edit.setText(name)
    clock = time.monotonic()
    gaps, last = [], clock
    widget.panel.start_button.click()
    while widget.busy:
        settle(0.02)
        now = time.monotonic()
        gaps.append(now - last - 0.02)
        last = now
    seconds = time.monotonic() - clock
    status = widget.panel.status.text().replace("\u200b", "")
    shown = widget.panel.plot
    widget.panel.install_button.click()  # off where the verdict was good, and it was installed by itself
    scores = {
        "seconds": round(seconds),
        "steps": shown.steps,
        "base": shown.base,
        "validation": shown.scores,
        "longest gap of napari's event loop, ms": round(1000 * max(gaps)),
        "verdict": status,
    }
    viewer.close()
    settle(0.2)
    return scores


def compare(name: str, out: Path) -> dict[str, dict[str, float]]:
    """Restore unseen pictures with both models; write them side by side."""
    from PIL import Image
    from skimage.metrics import peak_signal_noise_ratio

    import napari_dmgn as dmgn

    scores, rows = {}, []
    for seed, title in enumerate(UNSEEN, start=1):
        clean = picture(title)
        noisy = striped(clean, seed)
        images = {
            "striped": noisy,
            "rain": dmgn.restore(noisy, model="rain").background,
            name: dmgn.restore(noisy, model=name).background,
        }
        scores[title] = {k: round(float(peak_signal_noise_ratio(clean, v)), 2) for k, v in images.items()}
        row = [*images.values(), clean]
        rows.append(np.hstack([np.pad(r, ((0, SIDE - r.shape[0] + 4), (0, SIDE - r.shape[1] + 4))) for r in row]))
    Image.fromarray(np.vstack(rows)).save(out / "unseen.png")
    return scores


def sample(name: str, out: Path) -> dict[str, float]:
    """Restore the plugin's stripes sample with both models: PSNR of the whole stack against the clean one."""
    from PIL import Image

    import napari_dmgn as dmgn
    from napari_dmgn import samples

    cells = samples.striped_cells()
    stacks = {
        "striped": cells.input,
        "rain": dmgn.restore(cells.input, model="rain", rgb=False).background,
        name: dmgn.restore(cells.input, model=name, rgb=False).background,
    }
    # Of the whole range of uint16, which is what the models are trained on; the stack fills less of it.
    top = int(cells.clean.max())
    middle = [plane[len(cells.clean) // 2] for plane in (*stacks.values(), cells.clean)]
    sheet = np.hstack([np.clip(plane / top, 0, 1) for plane in middle])
    Image.fromarray(np.rint(sheet * 255).astype(np.uint8)).save(out / "sample.png")
    return {title: round(psnr(cells.clean, stack), 2) for title, stack in stacks.items()}


def psnr(clean: np.ndarray, image: np.ndarray) -> float:
    """PSNR in dB; the peak is the data type's."""
    peak = np.iinfo(clean.dtype).max
    return float(10 * np.log10(peak**2 / np.mean((clean.astype(float) - image.astype(float)) ** 2)))


def main() -> None:
    """Read the arguments, train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for models, runs and results; made if missing")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--steps", type=int, help="steps in the place of minutes: a few try the script out")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["NAPARI_DMGN_MODELS"] = str((given.out / "models").absolute())
    name = f"stripes {time.strftime('%H%M%S')}"
    scores = fine_tune(given.minutes, name, given.steps)
    print(json.dumps(scores, indent=1))
    unseen = compare(name, given.out)
    cells = sample(name, given.out)
    print(json.dumps({"unseen": unseen, "striped cells": cells}, indent=1))
    results = {"training": scores, "unseen": unseen, "striped cells": cells}
    (given.out / "scores.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
