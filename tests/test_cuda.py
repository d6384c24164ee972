"""What a GPU makes is what the CPU makes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from napari_dmgn import checkpoint, load_model, restore
from napari_dmgn.inference import iter_infer
from napari_dmgn.model.config import PRESETS
from napari_dmgn.model.descriptor import Metadata, Model
from napari_dmgn.model.network import DMGN
from napari_dmgn.perceptual import DistilledFeatures
from napari_dmgn.synthesis.variation import Variation
from napari_dmgn.training import TrainConfig, iter_train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

NAMES = ("background", "coarse", "noise", "noise_map")


@pytest.fixture(autouse=True)
def _full_precision():
    """A GPU's convolutions are of TF32 unless told otherwise, with errors of 1e-3."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def infer(model, batch, **options):
    *_, result = iter_infer(model, batch, **options)
    return result


def difference(a, b):
    return max(np.abs(getattr(a, name) - getattr(b, name)).max() for name in NAMES)


def narrow(preset):
    widths = tuple(8 for _ in PRESETS[preset].branch_widths)
    config = replace(PRESETS[preset], width=8, branch_widths=widths, bottleneck_cells=2, attention_reduction=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = DMGN(config).eval()
        for part in (network.background_branch, network.noise_branch, network.refiner):
            torch.nn.init.normal_(part.out.weight, std=0.1)
    return Model(network, Metadata(name="tiny", task="rain", card={}, sha256=""))


@pytest.mark.parametrize("tile", [None, 128])
@pytest.mark.parametrize("preset", PRESETS)
def test_images_whole_and_in_tiles(preset, tile):
    batch = np.random.default_rng(0).random((2, 3, 150, 203), np.float32)
    wanted = infer(narrow(preset), batch, device="cpu", precision="float32", tile=None)
    found = infer(narrow(preset), batch, device="cuda", precision="float32", tile=tile)
    exact = PRESETS[preset].exact_tiles or tile is None
    assert difference(found, wanted) < (1e-4 if exact else 0.2)


def test_half_precision(tiny_checkpoint):
    image = data.astronaut()[:200, :300]
    kept = restore(image, model=load_model(str(tiny_checkpoint)), device="cpu", precision="float32")
    for precision in ("bf16", "float32"):
        found = restore(image, model=load_model(str(tiny_checkpoint)), device="cuda", precision=precision)
        assert found.background.dtype == np.uint8
        off = np.abs(found.background.astype(int) - kept.background.astype(int))
        assert off.max() <= (1 if precision == "float32" else 12)
        assert off.mean() < (0.01 if precision == "float32" else 1)


def test_training_and_resuming(tiny_network, tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()[:128, :160]).save(folder / f"{name}.png")
    config = TrainConfig(
        data=str(folder),
        run=str(tmp_path / "run"),
        network=tiny_network.config.to_dict(),
        optimiser="muon",
        phases=[[1.0, 64, 4]],
        steps=12,
        draw_ahead=3,
        validation_pictures=1,
        validation_crop=64,
        device="cuda",
        compile=False,
    )
    events = iter_train(config)
    for event in events:
        if event.step == 6:
            events.close()
    first, *_, last = iter_train(config, resume=True)
    assert (first.step, last.step) == (7, 12)
    assert np.isfinite(last.loss)
    assert checkpoint.load(last.model).network.config.width == 8


@pytest.mark.parametrize(
    ("later", "atol"),
    [
        ({}, 1e-4),
        ({"uneven_light": 0.5, "colour_grading": 0.5}, 5e-4),  # the soft outlines of light are scaled once more
    ],
)
def test_varied_pictures(later, atol):
    images = torch.rand((8, 3, 64, 48), generator=torch.Generator().manual_seed(1))
    variation = Variation(colour_jitter=0.5, shallow_focus=0.5, **later)
    wanted = variation.scenes(images, torch.Generator().manual_seed(2))
    found = variation.scenes(images.cuda(), torch.Generator().manual_seed(2))
    torch.testing.assert_close(found.cpu(), wanted, atol=atol, rtol=0)


def test_features_of_the_perceptual_loss():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = DistilledFeatures((4, 4, 8, 8, 8)).to(memory_format=torch.channels_last)
    image = torch.rand((2, 3, 48, 64), generator=torch.Generator().manual_seed(1))
    told = []
    for device in ("cpu", "cuda"):
        x = image.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
        levels = features.to(device)(x)
        torch.stack([level.square().mean() for level in levels]).sum().backward()
        told.append([t.detach().cpu() for t in (*levels, x.grad)])
    for here, there in zip(*told, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3 * here.abs().max().item())
