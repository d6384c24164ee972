"""Perceptual and adversarial losses in a run: what they change, and that they resume and stay finite."""

import hashlib
import importlib
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from napari_dmgn import losses
from napari_dmgn.training import check_data, iter_train, state, train
from napari_dmgn.training import run as run_module


@pytest.mark.parametrize(("form", "optimiser"), [("critic", "adamw"), ("hinge", "adamw"), ("critic", "muon")])
def test_resume_is_exact_with_every_loss_on(
    form, optimiser, pictures, settings, every_loss, features, tmp_path, same_run
):
    if optimiser == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    changes = {**every_loss, "adversarial": form, "optimiser": optimiser, "steps": 6, "validate_every": 3}
    whole = settings(pictures, tmp_path / "whole", **changes)
    told = [event.terms for event in iter_train(whole, features=features)]
    assert set(told[0]) == {
        *("background", "background_fft", "coarse", "noise", "noise_map"),
        *("perceptual", "coarse_perceptual", "adversarial", "discriminator"),
    }
    parts = settings(pictures, tmp_path / "parts", **changes)
    for stop in (1, 4, 6):
        for event in (events := iter_train(parts, features=features, resume=True)):
            assert event.terms == told[event.step - 1]
            if event.step == stop:
                events.close()
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_discriminator_learns_and_the_network_heeds_it(pictures, settings, batches, features, tmp_path):
    config = settings(pictures, tmp_path, recipe="paper", discriminator_width=4, discriminator_rate=2e-3, steps=40)
    run = run_module.Run(config, features=features)
    source = batches(pictures, config)
    fixed = run.pair(source, 32, 2)
    run.pair = lambda *_: fixed
    weights = [p for p in run.adversary.network.parameters() if p.ndim > 1]
    before = [p.clone() for p in weights]
    told = [run.advance(source).terms for _ in range(8)]
    assert all(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    assert told[-1]["discriminator"] < told[0]["discriminator"]  # it tells the two apart better than at first
    # Without any other loss the network moves towards what the discriminator takes for true.
    alone = dict.fromkeys(("background", "coarse", "perceptual", "coarse_perceptual"), 0) | {"adversarial": 1}
    run.weights = losses.LossWeights(**{**vars(config.loss_weights()), **alone})
    # The learning discriminator would run ahead.
    run.adversary.step = lambda share: None
    judged = [run.advance(source).terms["adversarial"] for _ in range(8)]
    assert judged[-1] < judged[0]


def test_each_loss_is_switched_by_its_weight_alone(pictures, settings, features, tmp_path):
    def terms(**changes):
        config = settings(pictures, tmp_path / "none", discriminator_width=4, **changes)
        run = iter_train(config, features=features)
        event = next(run)
        run.close()
        (tmp_path / "none" / state.STATE).unlink()
        return set(event.terms)

    fast = {"background", "background_fft", "coarse", "noise", "noise_map"}
    assert terms() == fast
    assert terms(losses={"perceptual": 0.1}) == fast | {"perceptual"}
    assert terms(losses={"adversarial": 0.01}) == fast | {"adversarial", "discriminator"}
    assert terms(recipe="paper", losses={"adversarial": 0, "perceptual": 0}) == {
        "background",
        "coarse",
        "coarse_perceptual",
    }


def test_paper_recipe_has_the_published_weights_and_plain_l1(pictures, settings, tmp_path):
    config = settings(pictures, tmp_path, recipe="paper")
    weights = {
        name: value for name, value in vars(config.loss_weights()).items() if value and name != "noise_map_scale"
    }
    assert weights == {
        "background": 1,
        "coarse": 0.5,
        "perceptual": 0.1,
        "coarse_perceptual": 0.05,
        "adversarial": 0.01,
    }
    assert run_module.Schedule(config, 10).epsilon(0) == 0


def test_perceptual_losses_without_features_are_refused_before_anything_is_read(settings, tmp_path):
    config = settings(tmp_path / "no folder", tmp_path / "run", recipe="paper")
    with pytest.raises(ValueError, match="wanted features, a file of them"):
        iter_train(config)
    with pytest.raises(ValueError, match="crops of 16 px; the adversarial loss wanted at least 24"):
        settings(tmp_path, tmp_path, losses={"adversarial": 0.1}, phases=[[1.0, 16, 2]])


def test_a_discriminator_that_is_not_finite_stops_the_run_before_it_changes(
    pictures, settings, every_loss, features, tmp_path, monkeypatch
):
    from napari_dmgn.training import adversary

    loss, calls = adversary.discriminator_loss, []

    def broken(*args):
        calls.append(1)
        return loss(*args) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(adversary, "discriminator_loss", broken)
    config = settings(pictures, tmp_path, **every_loss)
    with pytest.raises(FloatingPointError, match="not finite at step 3: discriminator nan"):
        list(iter_train(config, features=features))
    run = run_module.Run(config, features=features)
    state.load_state(run)
    assert run.step == 2
    assert all(p.isfinite().all() for p in [*run.network.parameters(), *run.adversary.network.parameters()])


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupt_amid_a_step_leaves_no_trace_in_the_discriminator(
    call, pictures, settings, every_loss, features, tmp_path, monkeypatch, same_run
):
    """The first gradient that is clipped is the network's, the second the discriminator's own."""
    changes = {**every_loss, "steps": 4, "validate_every": 4}
    train(settings(pictures, tmp_path / "whole", **changes), features=features)
    config = settings(pictures, tmp_path / "parts", **changes)
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4 + call:  # two in each of the steps before
            raise KeyboardInterrupt
        return clip(*args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, features=features)
    run = run_module.Run(config, features=features)
    state.load_state(run)
    assert run.step == 2
    train(config, features=features, resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_every_loss_for_sixty_steps_stays_finite(pictures, settings, every_loss, features, tmp_path):
    """benchmarks/paper_recipe.py does a thousand."""
    config = settings(pictures, tmp_path, **every_loss, steps=60, phases=[[1.0, 24, 2]], validate_every=100)
    for event in iter_train(config, features=features):
        assert all(math.isfinite(value) for value in event.terms.values())


def test_the_benchmark_of_kills_has_every_loss_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    weights = asdict(importlib.import_module("kill").settings(tmp_path, 1).loss_weights())
    assert [name for name, weight in weights.items() if not weight > 0] == []


def test_features_of_the_settings_are_read_and_change_the_run(pictures, settings, tmp_path):
    from safetensors.torch import save_file

    from napari_dmgn.perceptual import DistilledFeatures

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("a", "b"):
            save_file(DistilledFeatures(widths=(2, 2, 2, 2, 2)).state_dict(), tmp_path / f"{name}.safetensors")
    values = {"losses": {"perceptual": 0.1}, "steps": 2}
    config = settings(pictures, tmp_path / "run", features=str(tmp_path / "a.safetensors"), **values)
    first = next(events := iter_train(config))
    events.close()
    assert first.terms["perceptual"] > 0
    other = settings(pictures, tmp_path / "run", features=str(tmp_path / "b.safetensors"), **values)
    with pytest.raises(ValueError, match="other training pictures"):
        iter_train(other, resume=True)
    model = train(config, resume=True)
    assert model.exists()


def test_crops_that_are_too_small_for_the_features_are_refused_before_anything_is_read(settings, tmp_path):
    from safetensors.torch import save_file

    from napari_dmgn.perceptual import DistilledFeatures

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distilled = DistilledFeatures(widths=(2, 2, 2, 2, 2))
    save_file(distilled.state_dict(), tmp_path / "small.safetensors")
    values = {"phases": [[0.5, 31, 2], [1.0, 48, 2]]}
    message = "phases have crops of 31 px; the perceptual features wanted at least 32"
    for loss in ("perceptual", "coarse_perceptual"):
        given = settings(tmp_path / "none", tmp_path / "run", losses={loss: 0.1}, **values)
        named = replace(given, features=str(tmp_path / "small.safetensors"))
        for function, config, options in (
            (iter_train, given, {"features": distilled}),
            (iter_train, named, {}),
            (check_data, named, {}),
        ):
            with pytest.raises(ValueError, match=message):
                function(config, **options)
    tiny = settings(
        tmp_path / "none", tmp_path / "run", losses={"perceptual": 0.1}, features="download", phases=[[1.0, 15, 2]]
    )
    with pytest.raises(ValueError, match=r"crops of 15 px; .* wanted at least 16"):  # nothing is downloaded for that
        check_data(tiny)
    unused = settings(tmp_path / "none", tmp_path / "run", phases=[[1.0, 15, 2]])
    with pytest.raises(ValueError, match="does not exist"):
        iter_train(unused, features=distilled)


def test_what_features_say_is_their_smallest_image_is():
    from napari_dmgn.model.vgg import Vgg19
    from napari_dmgn.perceptual import DistilledFeatures, VggFeatures

    with torch.random.fork_rng(devices=[]):
        for features in (DistilledFeatures(widths=(2, 2, 2, 2, 2)), VggFeatures(Vgg19(image_channels=3))):
            least = features.smallest
            assert len(features(torch.rand(1, 3, least, least))) == 5
            with pytest.raises(RuntimeError):
                features(torch.rand(1, 3, least - 1, least))


def test_vgg19_is_taken_from_its_download_and_fetched_only_when_asked(pictures, settings, tmp_path, monkeypatch):
    from napari_dmgn import vgg_weights
    from napari_dmgn.model.vgg import Vgg19
    from napari_dmgn.perceptual import VggFeatures
    from napari_dmgn.training.features import read_features

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = Vgg19(image_channels=3).state_dict()
    asked = []
    monkeypatch.setattr(vgg_weights, "load", lambda *, fetch: asked.append(fetch) or weights)
    for source in ("vgg19", "download"):
        features, digest = read_features(source)
        assert isinstance(features, VggFeatures)
        assert torch.equal(features.vgg.convs[12].weight, weights["convs.12.weight"])
        assert digest == vgg_weights.SHA256
    assert asked == [False, True]


def test_torchvisions_own_file_is_read_as_features(tmp_path):
    from napari_dmgn.model.vgg import Vgg19
    from napari_dmgn.perceptual import VggFeatures
    from napari_dmgn.training.features import read_features
    from napari_dmgn.vgg_weights import _NUMBERS

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = Vgg19(image_channels=3).state_dict()
    theirs = {
        f"features.{number}.{kind}": weights[f"convs.{i}.{kind}"]
        for i, number in enumerate(_NUMBERS)
        for kind in ("weight", "bias")
    }
    path = tmp_path / "vgg19-dcbb9e9d.pth"
    torch.save({**theirs, "classifier.0.bias": torch.zeros(3)}, path)
    features, digest = read_features(str(path))
    assert isinstance(features, VggFeatures)
    assert features.state_dict().keys() == {f"vgg.{name}" for name in weights}
    assert all(torch.equal(value, weights[name.removeprefix("vgg.")]) for name, value in features.state_dict().items())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    for broken in (tmp_path / "none.pth", tmp_path / "bad.pth"):
        with pytest.raises(ValueError, match=broken.name) as caught:
            read_features(str(broken))
        assert "\n" not in str(caught.value)
