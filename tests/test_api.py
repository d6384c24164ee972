"""`restore` and `iter_restore`: with a stand-in for the network, and with a small real one."""

import inspect
import json
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_dmgn import inference, iter_restore, restore, zoo
from napari_dmgn.api import iter_restore_into, job
from napari_dmgn.checkpoint import CheckpointError
from napari_dmgn.inference import plans
from napari_dmgn.model.config import NetworkConfig

DTYPES = ["u1", "i1", "<u2", ">u2", "i2", "u4", ">i4", "i8", "u8", "f2", "f4", ">f4", "f8"]
LAYOUTS = [
    ((1, 1), {}),
    ((5, 7), {}),
    ((5, 7, 3), {}),
    ((5, 7, 4), {}),
    ((5, 7, 3), {"rgb": False}),
    ((2, 5, 7), {}),
    ((2, 2, 5, 7), {}),
    ((2, 5, 7, 4), {}),
    ((2, 2, 5, 7, 3), {"rgb": True}),
    ((3, 5, 7), {"channel_axis": 0}),
    ((2, 5, 7, 2), {"channel_axis": -1}),
    ((2, 2, 3, 5, 7), {"channel_axis": 1}),
]


def sample(shape, dtype, seed=0):
    dtype = np.dtype(dtype)
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        image = random.normal(3, 20, shape).astype(dtype)
        image.flat[:: image.size // 3 + 1] = np.nan
        image.flat[-1] = np.inf
        return image
    limits = np.iinfo(dtype)
    values = random.integers(limits.min, limits.max, shape, dtype.newbyteorder("="), endpoint=True)
    return values.astype(dtype)


class StandIn:
    """Takes the place of `iter_infer`: a network that gives back `change(batch)` in some windows."""

    windows = 3
    model = SimpleNamespace(
        network=None,
        config=NetworkConfig(),
        metadata=SimpleNamespace(name="stand-in", task="rain", card={}, sha256="0" * 64),
    )

    def __init__(self):
        self.change = lambda planes: planes
        self.settings = []
        self.closed = 0

    def __call__(self, model, batch, *, sink, **settings):
        assert model is self.model
        self.settings.append(settings)
        try:
            for done in range(1, self.windows + 1):
                yield inference.Step(done=done, total=self.windows)
            planes = np.asarray(batch[:, :, :, :])
            for rows in ((0, planes.shape[2] // 2), (planes.shape[2] // 2, planes.shape[2])):
                sink.put(self.part(planes, rows, settings["masks"] and rows[0] == 0))
            yield inference.Planes(
                **dict.fromkeys(("background", "noise", "coarse", "noise_map", "masks")),
                report={
                    "device": "cpu",
                    "precision": "float32",
                    "tile": 64,
                    "windows": self.windows - 1,  # steps are not windows
                    "halo": "exact",
                    "fallbacks": ["halved the tile"],
                },
            )
        finally:
            self.closed += 1

    def part(self, planes, rows, masks):
        size = [-(-n // 2) for n in planes.shape[2:]]
        mask = inference.Mask(rows=(0, size[0]), columns=(0, size[1]), size=tuple(size), values=planes[:, 0, ::2, ::2])
        own = planes[:, :, slice(*rows)]
        answer = self.change(own)
        return inference.Part(
            rows=rows,
            columns=(0, planes.shape[3]),
            background=answer,
            coarse=answer,
            noise=own - answer,
            noise_map=np.abs(own - answer).mean(axis=1),
            masks={"cell": mask} if masks else {},
        )


@pytest.fixture
def network(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(inference, "iter_infer", stand_in)
    monkeypatch.setattr(job, "_BATCH_PIXELS", 1)  # frame by frame
    return stand_in


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_identity_gives_back_every_dtype_in_every_layout(network, dtype):
    for shape, axes in LAYOUTS:
        image = sample(shape, dtype)
        before = image.copy()
        image.flags.writeable = False
        result = restore(image, model=network.model, **axes)
        np.testing.assert_array_equal(image, before)
        for restored in (result.background, result.coarse):
            assert restored.dtype == image.dtype
            np.testing.assert_array_equal(restored, image)
        assert result.noise.dtype == result.noise_map.dtype == np.float32
        assert not result.noise.any()
        assert not result.noise_map.any()
        assert result.provenance["clipped_pixels"] == 0
        colours = result.provenance["axes"][-1] in ("rgb", "rgba")
        assert result.noise.shape == ((*shape[:-1], 3) if colours else shape)
        assert result.noise_map.shape == (shape[:-1] if colours else shape)


def test_there_is_an_event_after_every_window_and_one_with_the_result(network):
    image = sample((2, 2, 6, 8), "u2")
    events = list(iter_restore(image, model=network.model))
    assert [event.done for event in events] == [*range(1, 13), 12]
    assert {event.total for event in events} == {12}
    assert [event.frame for event in events] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert {event.frames for event in events} == {4}
    assert [event.restoration is None for event in events] == [True] * 12 + [False]


def test_frames_are_taken_one_at_a_time_and_a_caller_can_stop_between_windows(network):
    events = iter_restore(sample((5, 6, 8), "u2"), model=network.model)
    assert not network.settings
    for expected in (1, 1, 1, 2):
        next(events)
        assert len(network.settings) == expected
    events.close()
    assert len(network.settings) == network.closed == 2


def test_there_is_no_float_copy_of_the_stack(network):
    image = sample((60, 64, 64), "u1")
    restore(image[:1], model=network.model)
    tracemalloc.start()
    result = restore(image, model=network.model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    outputs = sum(getattr(result, name).nbytes for name in ("background", "noise", "noise_map", "coarse"))
    assert peak < outputs + 20 * 12 * image[0].size


def test_small_frames_pass_together(network, monkeypatch):
    image = sample((7, 6, 8), "u2")
    monkeypatch.setattr(job, "_BATCH_PIXELS", 3 * 16 * 16 + 1)  # padded
    network.change = lambda planes: planes / 2
    events = list(iter_restore(image, model=network.model))
    assert len(network.settings) == 3  # 3 + 3 + 1 frames
    assert [event.frame for event in events] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 6]
    together = events[-1].restoration
    monkeypatch.setattr(job, "_BATCH_PIXELS", 1)
    alone = restore(image, model=network.model)
    for name in ("background", "noise", "noise_map", "coarse"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))


def test_tiny_frames_are_counted_as_the_network_pads_them(network, monkeypatch):
    """A frame of one pixel takes the memory of 16x16, and a caller can stop in between."""
    monkeypatch.setattr(job, "_BATCH_PIXELS", 1 << 17)
    restore(np.zeros((1200, 1, 1), np.uint8), model=network.model)
    assert len(network.settings) == 3  # 512 + 512 + 176 frames


def test_results_go_into_given_arrays(network, tmp_path):
    image = sample((3, 6, 8, 4), "u2")
    network.change = lambda planes: planes / 2
    wanted = restore(image, model=network.model)
    background = np.memmap(tmp_path / "background.dat", "u2", "w+", shape=image.shape)
    noise = np.zeros((3, 6, 8, 3), "f4")[:, :, :, :]
    out = {"background": background, "noise": noise, "coarse": None}
    *_, last = iter_restore_into(image, out, model=network.model)
    result = last.restoration
    assert result.background is background
    assert result.noise is noise
    assert result.coarse.size == 0
    for name in ("background", "noise", "noise_map"):
        np.testing.assert_array_equal(getattr(result, name), getattr(wanted, name))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ({"noize": None}, "unknown results ['noize']; there are background, noise"),
        ({"noise": np.zeros((6, 8), "f8")}, "the array for noise has shape (6, 8) and type float64; wanted (6, 8) and"),
        ({"background": np.zeros((6, 9), "u1")}, "has shape (6, 9) and type uint8; wanted (6, 8) and uint8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_any_work(network, out, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        iter_restore_into(sample((6, 8), "u1"), out, model=network.model)
    assert not network.settings


def test_progress_sees_every_event(network):
    seen = []
    result = restore(sample((2, 6, 8), "u1"), model=network.model, progress=seen.append)
    assert [event.done for event in seen] == [1, 2, 3, 4, 5, 6, 6]
    assert seen[-1].restoration is result


def test_progress_that_raises_ends_the_work(network):
    def raises(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        restore(sample((6, 8), "u1"), model=network.model, progress=raises)
    assert network.closed == 1, caught  # which holds the frames, as an interactive session does


def test_both_functions_take_the_same_arguments():
    whole, steps = (inspect.signature(function).parameters for function in (restore, iter_restore))
    assert {name: p for name, p in whole.items() if name != "progress"} == dict(steps)


def test_settings_reach_the_engine(network):
    restore(sample((6, 8), "u1"), model=network.model, device="cpu", precision="float32", tile=64, halo=8, masks=True)
    (settings,) = network.settings
    assert settings == {"device": "cpu", "precision": "float32", "tile": 64, "halo": 8, "masks": True}


def test_provenance_says_how_it_was_made(network):
    image = sample((2, 6, 8, 3), ">u2")
    image[0, 0, 0] = 65535
    network.change = lambda planes: planes + 0.01
    facts = restore(image, model=network.model).provenance
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model"] == "stand-in"
    assert facts["sha256"] == "0" * 64
    assert facts["task"] == facts["model_task"] == "rain"
    assert (facts["device"], facts["precision"], facts["tile"]) == ("cpu", "float32", 64)
    assert facts["windows"] == 4
    assert facts["fallbacks"] == ["halved the tile"]
    assert facts["intensity_range"] == [0, 65535]
    assert facts["shape"] == [2, 6, 8, 3]
    assert facts["dtype"] == ">u2"
    assert facts["axes"] == ["frame", "y", "x", "rgb"]
    assert facts["clipped_pixels"] == int((image > 65535 - 655).any(axis=-1).sum()) > 0
    assert facts["nonfinite_pixels"] == 0
    assert facts["seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["date"])
    assert {"version", "torch", "halo"} <= facts.keys()


def test_pixels_that_are_not_finite_are_counted(network):
    image = np.zeros((6, 8, 3), "f4")
    image[0, 0] = np.nan
    image[1, 1, 2] = -np.inf
    network.change = lambda planes: planes + 0.5
    result = restore(image, model=network.model)
    assert result.provenance["nonfinite_pixels"] == 2
    np.testing.assert_array_equal(np.isfinite(result.background), np.isfinite(image))
    assert result.background[1, 1, 2] == -np.inf


def test_channels_have_ranges_of_their_own(network):
    image = np.stack([np.full((6, 8), 10, "u2"), np.full((6, 8), 900, "u2")])
    network.change = lambda planes: planes / 2
    result = restore(image, model=network.model, channel_axis=0)
    assert result.provenance["intensity_range"] == [[0, 10], [0, 900]]
    assert np.unique(result.background[0]) == 5
    assert np.unique(result.background[1]) == 450


@pytest.mark.parametrize(("wanted", "expected"), [("same", "u1"), (np.float32, "f4"), ("uint16", "u2")])
def test_the_background_takes_the_type_asked_for(network, wanted, expected):
    network.change = lambda planes: planes * 0 + 0.5
    result = restore(np.full((4, 4), 9, np.uint8), model=network.model, dtype=wanted)
    assert result.background.dtype == result.coarse.dtype == expected
    np.testing.assert_allclose(result.background, 127.5, atol=0.5 if expected[0] == "u" else 1e-4)


def test_masks_come_when_asked_for(network):
    image = sample((2, 6, 8), "u1")
    assert restore(image, model=network.model).masks is None
    masks = restore(image, model=network.model, masks=True).masks
    assert masks["cell"].shape == (2, 3, 4)


def test_lists_and_views_are_images_too(network):
    assert restore([[1, 2], [3, 4]], model=network.model).background.tolist() == [[1, 2], [3, 4]]
    view = sample((12, 16, 6), "f4")[::-2, ::2, ::2]
    np.testing.assert_array_equal(restore(view, model=network.model).background, view)


def test_a_model_of_another_task_is_used_with_a_notice(network, caplog):
    restore(sample((6, 8), "u1"), model=network.model)
    assert not caplog.records
    facts = restore(sample((6, 8), "u1"), "haze", model=network.model).provenance
    assert "trained for rain" in caplog.text
    assert (facts["task"], facts["model_task"]) == ("haze", "rain")


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (np.zeros((2, 2, 2, 6, 8)), {}, "5 axes needs channel_axis= or rgb="),
        (np.zeros((0, 8)), {}, "no pixels: its shape is (0, 8)"),
        (np.zeros((6, 8, 0)), {}, "no pixels"),
        (np.zeros(6), {}, "at least 2 axes"),
        (np.zeros((6, 8), bool), {}, "dtype bool"),
        (np.zeros((6, 8)), {"task": "rian"}, "unknown task 'rian'; did you mean 'rain'?"),
        (np.zeros((6, 8)), {"task": "Haze"}, "did you mean 'haze'?"),
        (np.zeros((6, 8)), {"task": 5}, "unknown task 5; The tasks are rain, haze, reflection"),
        (np.zeros((6, 8)), {"rgb": True}, "rgb=True needs a last axis of 3 or 4"),
        (np.zeros((6, 8)), {"channel_axis": 0}, "channel_axis needs an image of 3"),
        (np.zeros((6, 8)), {"intensity_range": (1, 0)}, "low < high; got (1, 0)"),
        (np.zeros((6, 8)), {"dtype": "U1"}, "integers or floats; got 'U1'"),
        (np.zeros((6, 8)), {"dtype": "nonsense"}, "integers or floats; got 'nonsense'"),
        (np.zeros((6, 8)), {"dtype": None}, "integers or floats; got None"),
        (np.zeros((6, 8)), {"dtype": bool}, "integers or floats"),
        (np.zeros((6, 8)), {"dtype": "i,,"}, "integers or floats; got 'i,,'"),
        (np.zeros((6, 8)), {"dtype": {"names": ["a"]}}, "integers or floats; got {'names': ['a']}"),
        (np.zeros((6, 8), "M8[s]"), {}, "dtype datetime64[s]"),
        (np.zeros((6, 8)), {"device": None}, "device is None; wanted auto, cpu"),
        (np.zeros((6, 8)), {"tile": np.zeros((2, 2))}, "tile is 'auto', None or"),
        (np.zeros((6, 8)), {"tile": np.array("auto")}, "tile is 'auto', None or"),
        (np.zeros((6, 8)), {"halo": np.zeros((2, 2))}, "halo is 'exact' or"),
        (np.zeros((6, 8)), {"precision": np.zeros((2, 2))}, "unknown precision"),
        (np.zeros((6, 8)), {"tile": 0}, "tile is 'auto', None or"),
        (np.zeros((6, 8)), {"tile": "big"}, "got 'big'"),
        (np.zeros((6, 8)), {"tile": 1.5}, "got 1.5"),
        (np.zeros((6, 8)), {"halo": -1}, "halo is 'exact' or"),
        (np.zeros((6, 8)), {"device": "gpu"}, "device 'gpu'"),
        (np.zeros((6, 8)), {"device": "cuda:99"}, "device 'cuda:99'"),
        (np.zeros((6, 8)), {"precision": "half"}, "precision 'half'"),
        (np.zeros((6, 8)), {"model": "no such model"}, "no model 'no such model'"),
        (np.zeros((6, 8)), {"model": Path("none.safetensors")}, "none.safetensors"),
        (np.zeros((6, 8)), {"model": 7}, "a name, a checkpoint file or a Model; got 7"),
    ],
)
def test_wrong_arguments_are_told_in_one_line_before_any_work(network, image, arguments, message):
    arguments = {"model": network.model} | arguments
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        iter_restore(image, **arguments)
    assert "\n" not in str(caught.value)
    assert not network.settings


def test_a_progress_that_cannot_be_called_is_told_before_any_work(network):
    with pytest.raises(ValueError, match="progress is a function of a RestoreEvent, or None; got 5"):
        restore(np.zeros((6, 8)), model=network.model, progress=5)
    assert not network.settings


def test_a_broken_checkpoint_is_told_before_any_work(tiny_checkpoint, tmp_path):
    whole = Path(tiny_checkpoint).read_bytes()
    files = {"cut": whole[: len(whole) // 2], "text": b"hello, world", "empty": b"", "long": whole + b"x"}
    for name, content in files.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=path.name) as caught:
            iter_restore(np.zeros((6, 8)), model=path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (7, 5), (7, 5, 3), (3000, 17), (17, 3000, 4)])
def test_small_and_thin_pictures_work(tiny_checkpoint, shape):
    image = sample(shape, "u1")
    result = restore(image, model=tiny_checkpoint, precision="float32")
    assert result.background.shape == shape
    assert result.background.dtype == np.uint8
    assert np.isfinite(result.noise).all()
    assert 0 <= result.noise_map.min() <= result.noise_map.max() <= 1


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_stack_is_restored_as_its_frames_are(tiny_checkpoint, dtype):
    stack = np.nan_to_num(sample((3, 20, 24, 3), dtype), posinf=5)
    options = {"model": tiny_checkpoint, "precision": "float32", "intensity_range": (0, 200)}
    together = restore(stack, **options)
    for index, image in enumerate(stack):
        alone = restore(image, **options)
        for name in ("background", "noise", "noise_map", "coarse"):
            np.testing.assert_allclose(getattr(together, name)[index], getattr(alone, name), rtol=1e-5, atol=1e-4)


def test_a_loaded_model_and_its_file_give_the_same(tiny_checkpoint, rainy):
    model = zoo.load_model(tiny_checkpoint)
    first, second = (restore(rainy, model=m, precision="float32") for m in (model, tiny_checkpoint))
    np.testing.assert_array_equal(first.background, second.background)
    assert first.provenance["sha256"] == second.provenance["sha256"] == model.metadata.sha256


def test_a_bright_frame_changes_nothing_in_the_others(tiny_checkpoint, rainy):
    """No flicker: the range is the stack's, and each frame has its own averages."""
    stack = np.stack([rainy[..., 1].astype(np.uint16) * 100] * 5)
    stack[2] = stack[2] * 2.5  # up to 63750
    result = restore(stack, model=tiny_checkpoint, precision="float32")
    assert result.provenance["intensity_range"] == [0, int(stack[2].max())]
    for name in ("background", "noise", "noise_map", "coarse"):
        frames = getattr(result, name)
        for index in (1, 3, 4):
            np.testing.assert_array_equal(frames[index], frames[0])
        assert (frames[2] != frames[0]).any()
    # What a range of each frame's own would do: the same frame comes out another.
    own = restore(stack[0], model=tiny_checkpoint, precision="float32")
    assert np.abs(own.background.astype(float) - result.background[0]).max() > 1


@pytest.mark.parametrize("tile", ["auto", 32, None])
def test_holes_are_the_same_in_every_part(tiny_checkpoint, rainy, tile, monkeypatch):
    monkeypatch.setitem(plans._STRIP_PIXELS, "cpu", 32 * 128)
    image = rainy / np.float32(255)
    image[10:20, 28:70] = np.nan
    image[60, 5, 1] = np.inf
    options = {"model": tiny_checkpoint, "precision": "float32"}
    whole = restore(image, tile=None, **options)
    result = restore(image, tile=tile, **options)
    np.testing.assert_array_equal(np.isnan(result.background), np.isnan(image))
    assert result.background[60, 5, 1] == np.inf
    assert result.provenance["nonfinite_pixels"] == 421
    finite = np.isfinite(image)
    np.testing.assert_allclose(result.background[finite], whole.background[finite], atol=1e-5)
    np.testing.assert_allclose(result.noise, whole.noise, atol=1e-5)


def test_a_large_image_takes_no_memory_but_its_results(tiny_checkpoint, tmp_path, monkeypatch):
    """Beside the results, no array as large as the image, in float32 that is, is made."""
    shape = (3072, 640)
    monkeypatch.setitem(plans._STRIP_PIXELS, "cpu", 64 * shape[1])
    mapped = np.memmap(tmp_path / "image.dat", "u1", "w+", shape=(*shape, 3))
    mapped[:] = np.arange(shape[0], dtype=np.uint16).astype(np.uint8)[:, None, None]
    restore(mapped[:64, :64], model=tiny_checkpoint)
    tracemalloc.start()
    result = restore(mapped, model=tiny_checkpoint)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    outputs = sum(getattr(result, name).nbytes for name in ("background", "noise", "noise_map", "coarse"))
    assert result.provenance["windows"] > 1
    assert peak < outputs + 12 * shape[0] * shape[1]


def test_types_differ_by_their_rounding_only(tiny_checkpoint, rainy):
    options = {"model": tiny_checkpoint, "precision": "float32"}
    eight = restore(rainy, **options).background
    exact = restore(rainy / np.float32(255), **options)
    scaled = exact.background * 255
    assert np.abs(eight - np.clip(scaled, 0, 255)).max() < 0.51
    sixteen = restore(rainy.astype(np.uint16) * 257, intensity_range="dtype", **options).background
    assert np.abs(sixteen / 257 - np.clip(scaled, 0, 255)).max() < 0.01


def test_the_real_engine_can_be_stopped(tiny_checkpoint, rainy):
    events = iter_restore(rainy, model=tiny_checkpoint, tile=64)
    first = next(events)
    assert (first.done, first.frame, first.frames) == (1, 0, 1)
    assert first.total > 1
    events.close()


def test_the_real_engine_counts_up_to_its_total(tiny_checkpoint, rainy):
    for tile in (32, None):
        events = list(iter_restore(np.stack([rainy] * 2), model=tiny_checkpoint, tile=tile))
        total = events[-1].total
        assert [event.done for event in events] == [*range(1, total + 1), total]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_callers_error_state_changes_nothing(tiny_checkpoint, dtype):
    """NumPy raises where a caller says so: digits lost on the way to a result are no error."""
    image = sample((2, 17, 20), dtype)
    if image.dtype.kind == "f":
        image[0, :4] = np.finfo(dtype).tiny
        image[0, 4:8] = np.finfo(dtype).max if dtype == "f2" else 1e30
    settings = {"model": tiny_checkpoint, "precision": "float32"}
    for kind in {image.dtype.str, "f2", "u1"}:
        for wanted in ("auto", (0, 1e-40), (-5, 5e4)):
            options = settings | {"dtype": kind, "intensity_range": wanted}
            expected = restore(image, **options)
            with np.errstate(all="raise"):
                found = restore(image, **options)
            for name in ("background", "noise", "noise_map", "coarse"):
                np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
