"""Features from files: VGG-19 under torchvision's names, and the distillation's architecture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from napari_dmgn import perceptual as perceptual_module
from napari_dmgn.perceptual import DistilledFeatures, VggFeatures, load_features

# torchvision's vgg19().features up to relu5_1: (output channels, index) of each convolution, "M" a pooling.
LAYERS = ((64, 0), (64, 2), "M", (128, 5), (128, 7), "M", (256, 10), (256, 12), (256, 14), (256, 16), "M",
          (512, 19), (512, 21), (512, 23), (512, 25), "M", (512, 28))  # fmt: skip


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A file with torchvision's names and random weights."""
    random = torch.Generator().manual_seed(0)
    tensors, before = {}, 3
    for layer in LAYERS:
        if layer != "M":
            channels, index = layer
            tensors[f"features.{index}.weight"] = (
                torch.randn((channels, before, 3, 3), generator=random) * (2 / (9 * before)) ** 0.5
            )
            tensors[f"features.{index}.bias"] = torch.randn(channels, generator=random) / 20
            before = channels
    tensors["classifier.0.bias"] = torch.zeros(5)  # what else torchvision's file has
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(tensors, path)
    return path, tensors


def test_vgg_features_are_those_of_torchvisions_layers(vgg_file):
    """The oracle: the sequence of layers that torchvision documents, on normalised input."""
    path, tensors = vgg_file
    features = load_features(path)
    assert isinstance(features, VggFeatures)
    image = torch.rand((2, 3, 32, 48), generator=torch.Generator().manual_seed(1))
    x = (image - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    wanted = []
    for layer in LAYERS:
        if layer == "M":
            x = F.max_pool2d(x, 2)
            continue
        index = layer[1]
        x = torch.relu(F.conv2d(x, tensors[f"features.{index}.weight"], tensors[f"features.{index}.bias"], padding=1))
        if index in (0, 5, 10, 19, 28):
            wanted.append(x)
    for got, level in zip(features(image), wanted, strict=True):
        torch.testing.assert_close(got, level, atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in features.parameters())


def test_distilled_features_are_told_by_their_names_and_reach_vggs_channels(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DistilledFeatures(widths=(2, 3, 4, 5, 5))
    save_file(made.state_dict(), tmp_path / "small.safetensors")
    loaded = load_features(tmp_path / "small.safetensors")
    image = torch.rand((1, 3, 32, 40), generator=torch.Generator().manual_seed(1))
    levels = loaded(image)
    assert [level.shape[1] for level in levels] == [64, 128, 256, 512, 512]
    assert [level.shape[2] for level in levels] == [32, 16, 8, 4, 2]
    for a, b in zip(levels, made(image), strict=True):
        assert torch.equal(a, b)
    # The first level by hand: 1x1, reflection, 3x3, ReLU, 1x1.
    x = F.conv2d(image, made.conv0.weight, made.conv0.bias)
    padded = torch.from_numpy(np.pad(x.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    x = torch.relu(F.conv2d(padded, made.conv11.weight, made.conv11.bias))
    x = F.conv2d(x, made.conv11_aux.weight, made.conv11_aux.bias)
    torch.testing.assert_close(levels[0], x)


def test_files_of_something_else_are_refused_in_one_line(tmp_path, vgg_file):
    tensors = dict(vgg_file[1])
    short = dict(tensors)
    del short["features.28.bias"]
    odd = dict(tensors, **{"features.0.weight": torch.zeros(64, 4, 3, 3)})
    cases = {
        "short": (short, "lacks features.28.bias"),
        "odd": (odd, "is not VGG-19"),
        "distilled": ({"conv0.weight": torch.zeros(3, 3, 1, 1)}, "is no distillation of VGG-19"),
    }
    for name, (content, message) in cases.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=message) as caught:
            load_features(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)
    (tmp_path / "text").write_text("no tensors here")
    for name in ("text", "missing"):
        with pytest.raises(ValueError, match="cannot read features file"):
            load_features(tmp_path / name)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 4, 3, 2), (2, 5, 4, 7), (1, 1, 2, 9)])
def test_reflection_in_channels_last_memory_is_torchs(shape):
    """What a GPU pads by; here on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).contiguous(memory_format=torch.channels_last)
    ours, theirs = x.clone(memory_format=torch.preserve_format).requires_grad_(), x.clone().requires_grad_()
    found = perceptual_module._ReflectedByOne.apply(ours)
    wanted = torch.nn.functional.pad(theirs, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn(wanted.shape, dtype=torch.float64, generator=generator)
    kept = gradient.clone()
    found.backward(gradient)
    wanted.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(gradient, kept)
