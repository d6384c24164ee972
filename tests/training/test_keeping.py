"""What is kept of a run: the best model, whole files on a full disk, logs without a future, its steps."""

import csv
import errno
import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace

import pytest
import torch

from napari_dmgn import checkpoint, files
from napari_dmgn.training import TrainConfig, budget, iter_train, log, loop, state, train
from napari_dmgn.training import run as run_module


def validations(monkeypatch, scores):
    """Let validations give these scores, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(loop, "validate", lambda *_: {"x input": 1.0, "x output": next(left)})


def test_the_best_model_is_the_average_at_its_validation(pictures, settings, tmp_path, monkeypatch, bits):
    validations(monkeypatch, [20, 23, 22, 23])
    averages = {}
    config = settings(pictures, tmp_path, steps=8, validate_every=2)
    for event in iter_train(config):
        if event.best:
            averages[event.step] = bits(event.best)
    assert list(averages) == [2, 4]
    assert bits(tmp_path / loop.BEST) == averages[4] != bits(tmp_path / loop.MODEL)
    assert checkpoint.read_header(tmp_path / loop.BEST).card["training"]["steps"] == 4


def test_no_state_claims_a_best_model_that_was_not_written(pictures, settings, tmp_path, monkeypatch, bits):
    validations(monkeypatch, [20, 23, 23, 21])
    config = settings(pictures, tmp_path, steps=6, validate_every=2)
    write, written = loop._write_model, []

    def interrupted(training, path, *rest):
        if written:
            raise KeyboardInterrupt
        write(training, path, *rest)
        written.append(bits(path))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_write_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert bits(tmp_path / loop.BEST) == written[0]
    run = run_module.Run(config)
    state.load_state(run)
    assert (run.step, run.best, run.stale) == (4, 20, 0)
    best = {event.step: event.best for event in iter_train(config, resume=True)}
    assert best == {4: tmp_path / loop.BEST, 5: None, 6: None}  # what was interrupted comes first
    assert bits(tmp_path / loop.BEST) != written[0]


def test_a_validation_that_was_interrupted_is_made_up_for(pictures, settings, tmp_path, monkeypatch, same_run):
    whole = settings(pictures, tmp_path / "whole", steps=5, validate_every=2)
    expected = [(event.step, event.validation, event.best and event.best.name) for event in iter_train(whole)]
    validate, calls = loop.validate, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == interrupt:
            raise KeyboardInterrupt
        return validate(*args)

    monkeypatch.setattr(loop, "validate", interrupted)
    for interrupt in (1, 2, 3):
        calls.clear()
        config, found = replace(whole, run=str(tmp_path / f"{interrupt}")), []
        with pytest.raises(KeyboardInterrupt):
            found.extend(iter_train(config))
        found += iter_train(config, resume=True)
        assert [(event.step, event.validation, event.best and event.best.name) for event in found] == expected
        assert found[-1].model == tmp_path / f"{interrupt}" / loop.MODEL
        same_run(tmp_path / "whole", tmp_path / f"{interrupt}")


@pytest.mark.parametrize("interrupted", [False, True])
def test_patience_ends_a_run_early_with_a_model(interrupted, pictures, settings, tmp_path, monkeypatch):
    validations(monkeypatch, [20, 21, 20.5, 21, 30])
    config = settings(pictures, tmp_path, steps=20, validate_every=2, patience=2)
    events = []
    for event in (running := iter_train(config)):
        events.append(event)
        if interrupted and event.step == 7:
            running.close()
    if interrupted:
        events += iter_train(config, resume=True)
    assert events[-1].step == 8
    assert events[-1].stopped == "no better validation in 2, the best is 21.00 dB"
    assert events[-1].model == tmp_path / loop.MODEL
    assert not any(event.stopped for event in events[:-1])
    assert checkpoint.read_header(tmp_path / loop.MODEL).card["training"]["steps"] == 8
    assert list(iter_train(config, resume=True)) == []


@pytest.mark.parametrize("patience", [0, 4])
def test_a_run_that_stopped_early_goes_on_with_more_patience(patience, pictures, settings, tmp_path, monkeypatch):
    validations(monkeypatch, [21, 20, 19, 30, 31])
    config = settings(pictures, tmp_path, steps=5, validate_every=1, patience=2)
    assert [event.step for event in iter_train(config)] == [1, 2, 3]
    assert list(iter_train(replace(config, patience=1), resume=True)) == []
    events = list(iter_train(replace(config, patience=patience), resume=True))
    assert [event.step for event in events] == [4, 5]
    assert events[-1].model == tmp_path / loop.MODEL
    assert checkpoint.read_header(events[-1].model).card["training"]["steps"] == 5


def table(folder):
    return list(csv.DictReader((folder / log.TABLE).read_text(encoding="utf-8").splitlines()))


class FullDisk:
    """Files that take so many bytes and then say that the disk is full."""

    def __init__(self, monkeypatch, room):
        self.room = room
        real = files.replacing

        def replacing(path):
            disk = self

            class Context:
                def __enter__(self):
                    self.inner = real(path)
                    file = self.inner.__enter__()
                    write = file.write

                    def limited(content):
                        if len(content) > disk.room:
                            write(content[: disk.room])
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                        return write(content)

                    self.proxy = type("File", (), {"write": staticmethod(limited)})()
                    return self.proxy

                def __exit__(self, *error):
                    return self.inner.__exit__(*error)

            return Context()

        monkeypatch.setattr(checkpoint, "replacing", replacing)


def test_a_full_disk_costs_no_state_that_was_saved(pictures, settings, tmp_path, monkeypatch, caplog):
    config = settings(pictures, tmp_path, save_minutes=0)
    events = iter_train(config)
    for event in events:
        if event.step == 3:
            break
    disk = FullDisk(monkeypatch, room=1000)
    with caplog.at_level(logging.WARNING):
        assert next(events).step == 4  # a periodic save that fails is told, and the run goes on
    assert "state of step 4 not saved, that of step 3 is kept" in caplog.text
    assert "No space left" in caplog.text
    with pytest.raises(OSError, match="No space left"):
        events.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [state.STATE]  # and no part of a file
    disk.room = 1 << 40
    part = tmp_path / f".{'0123abcd' * 4}.part"  # what a kill in the middle of a write leaves
    part.write_bytes(b"half")
    assert next(iter_train(config, resume=True)).step == 4
    assert not part.exists()


def test_a_disk_that_is_too_small_is_told_before_any_step(pictures, settings, tmp_path, monkeypatch):
    config = settings(pictures, tmp_path / "deep" / "run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"No space left.*: 0 MB free, wanted") as caught:
        iter_train(config)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_cannot_be_written_is_told_before_any_step(pictures, settings, tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("mine")
    for run in ("notes", "notes/run"):
        with pytest.raises(OSError, match="wanted a folder that the run can be written to"):
            iter_train(settings(pictures, tmp_path / run))
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]

    def refused(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "NamedTemporaryFile", refused)
        with pytest.raises(PermissionError, match="Permission denied; wanted a folder"):
            iter_train(settings(pictures, tmp_path / "run"))
    iter_train(settings(pictures, tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []  # what was tried is gone


@pytest.mark.parametrize("stopped", [False, True])
def test_a_model_that_was_not_written_costs_no_step(
    stopped, pictures, settings, tmp_path, monkeypatch, uninterrupted, same_run
):
    """The disk is full when the model is due; where there is room again it is written from the saved state."""
    if stopped:  # early, by its patience
        validations(monkeypatch, [20, 19, 19])
    config = settings(pictures, tmp_path, validate_every=5, patience=int(stopped))
    finish, left = loop._finish, [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def full(*args):
        if left:
            raise left.pop()
        return finish(*args)

    monkeypatch.setattr(loop, "_finish", full)
    losses = []
    with pytest.raises(OSError, match="No space left"):
        losses.extend(event.loss for event in iter_train(config))
    assert not (tmp_path / loop.MODEL).exists()
    (last,) = iter_train(config, resume=True)
    assert (last.step, last.model) == (10 if stopped else 12, tmp_path / loop.MODEL)
    assert bool(last.stopped) == stopped
    assert list(iter_train(config, resume=True)) == []
    assert table(tmp_path)[-1]["step"] == str(last.step)
    if not stopped:
        whole = uninterrupted[1][-1]
        for name in ("loss", "learning_rate", "validation"):
            assert getattr(last, name) == getattr(whole, name)
        assert (last.best is None) == (whole.best is None)
        same_run(tmp_path, uninterrupted[0])


def test_nothing_of_an_earlier_run_is_overwritten_unasked(pictures, settings, tmp_path):
    config = settings(pictures, tmp_path, steps=2)
    train(config)
    for kept in ([state.STATE], [loop.MODEL], [loop.BEST], [loop.MODEL, loop.BEST]):
        folder = tmp_path / f"with {len(kept)} {kept[0]}"
        folder.mkdir()
        for name in kept:
            shutil.copy(tmp_path / name, folder)
        moved = replace(config, run=str(folder))
        with pytest.raises(ValueError, match="holds an earlier run; resume it, or allow to overwrite it"):
            iter_train(moved)
        if state.STATE not in kept:
            with pytest.raises(ValueError, match="but no state to resume"):
                iter_train(moved, resume=True)
        assert sorted(p.name for p in folder.iterdir()) == sorted(kept)
        assert train(moved, overwrite=True).exists()


def test_the_model_that_a_run_starts_from_is_not_overwritten_by_it(pictures, settings, tmp_path):
    start = train(settings(pictures, tmp_path / "a", steps=2))
    again = settings(pictures, tmp_path / "a", steps=2, start=str(start))
    with pytest.raises(ValueError, match=r"holds model.safetensors, which the run is to start from"):
        iter_train(again, overwrite=True)
    assert start.exists()
    assert train(replace(again, run=str(tmp_path / "b"))).exists()


def test_a_run_that_is_killed_in_its_first_step_is_resumed(
    pictures, settings, tmp_path, monkeypatch, uninterrupted, same_run
):
    config = settings(pictures, tmp_path)

    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("napari_dmgn.training.run.Run.advance", killed)
        with pytest.raises(SystemExit):
            train(config)
    assert (tmp_path / state.STATE).exists()
    train(config, resume=True)
    same_run(tmp_path, uninterrupted[0])


def test_a_run_is_resumed_from_another_folder(pictures, settings, tmp_path, monkeypatch):
    shutil.copytree(pictures, tmp_path / "here" / "pictures")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    start = train(settings("pictures", "first", steps=1))
    config = settings("pictures", "run", start=str(start), sources=[{"clean": "pictures"}], steps=3)
    next(events := iter_train(config))
    events.close()
    monkeypatch.chdir(tmp_path / "there")
    saved = state.read_config("../here/run")
    assert train(TrainConfig.from_dict({**saved, "run": "../here/run"}), resume=True).exists()
    with pytest.raises(ValueError, match=r"start is 'model.safetensors', wanted 'best.safetensors'"):
        state._check_same_run(
            TrainConfig.from_dict(saved), {"config": {**saved, "start": "x/best.safetensors"}, "network": None}
        )


def test_a_damaged_state_is_told_in_one_line(pictures, settings, tmp_path):
    config = settings(pictures, tmp_path)
    next(events := iter_train(config))
    events.close()
    path = tmp_path / state.STATE
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"state.safetensors is damaged: ") as caught:
        iter_train(config, resume=True)
    assert "\n" not in str(caught.value)


def test_logs_hold_each_step_once_and_as_numbers(pictures, settings, tmp_path):
    config = settings(pictures, tmp_path, validate_every=3, save_minutes=100)
    for event in (events := iter_train(config)):
        if event.step == 4:
            events.close()
    saved = (tmp_path / state.STATE).read_bytes()
    for event in (events := iter_train(config, resume=True)):
        if event.step == 10:
            break
    (tmp_path / state.STATE).write_bytes(saved)  # as if it had been killed here
    with (tmp_path / log.LOG).open("a") as file:
        file.write('{"step": 10, "lo')
    list(iter_train(config, resume=True))
    events.close()
    lines = [json.loads(line) for line in (tmp_path / log.LOG).read_text().splitlines()]
    rows = table(tmp_path)
    assert [line["step"] for line in lines] == [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    for line, row in zip(lines, rows, strict=True):
        assert float(row["loss"]) == line["loss"]
        assert float(row["loss coarse"]) == line["terms"]["coarse"]
        assert float(row["dB light output"]) == line["validation"]["light output"]
        assert float(row["seconds network"]) > float(row["seconds data"]) >= 0
        assert set(line["timing"]) == {"data", "synthesis", "network"}


def test_a_run_resumed_with_more_validations_logs_each_step_once(pictures, settings, tmp_path):
    config = settings(pictures, tmp_path, steps=22, validate_every=40)
    for event in (events := iter_train(config)):
        if event.step == 20:
            events.close()
    first, *_ = iter_train(replace(config, validate_every=20), resume=True)
    assert (first.step, first.terms) == (20, {})
    assert first.validation
    assert [row["step"] for row in table(tmp_path)] == ["20", "22"]


def test_columns_of_a_table_grow_with_what_is_told(tmp_path):
    from napari_dmgn.training import TrainEvent

    written = log.Log(tmp_path)
    plain = {"steps": 60, "loss": 1.0, "learning_rate": 0.1, "seconds": 1.0}
    written(TrainEvent(step=20, terms={"a": 1.0}, **plain))
    written(TrainEvent(step=40, terms={"a": 2.0}, validation={"x output": 30.0}, **plain))
    written(TrainEvent(step=60, terms={"a": 3.0}, **plain))
    rows = table(tmp_path)
    assert [row["dB x output"] for row in rows] == ["", "30.0", ""]
    assert [row["loss a"] for row in rows] == ["1.0", "2.0", "3.0"]


def test_steps_are_fitted_to_a_time_once(pictures, settings, tmp_path, monkeypatch, same_run):
    """With a clock on which a pixel costs a hundred-thousandth of a second, and a validation three."""
    now = [0.0]

    def probe(self, batches, crop, batch):
        now[0] += batch * crop**2 / 1e5
        return batch * crop**2 / 1e5

    monkeypatch.setattr(run_module.Run, "probe", probe)
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    config = settings(pictures, tmp_path / "x", minutes=2, validate_every=50, phases=[[0.5, 32, 2], [1.0, 48, 2]])
    run = run_module.Run(config)

    def validate():
        now[0] += 3

    steps = budget.fit_steps(run, None, 2, validate)
    per_step = (2 * 32**2 + 2 * 48**2) / 2 / 1e5
    spent = 3 * (2 * 32**2 + 2 * 48**2) / 1e5 + 3
    assert steps == pytest.approx((0.9 * 120 - spent - 3) / (per_step + 3 / 50), abs=1)
    assert budget.fit_steps(run, None, 1e-6, validate) == 20
    # What was fitted is part of the state: a resumed run has the same schedule.
    monkeypatch.setattr(loop, "fit_steps", lambda *_: 9)
    config = settings(pictures, tmp_path / "a", minutes=2)
    whole = list(iter_train(config))
    assert [event.step for event in whole] == list(range(1, 10))
    assert whole[0].steps == 9
    parts = replace(config, run=str(tmp_path / "b"))
    for event in (events := iter_train(parts)):
        if event.step == 4:
            events.close()
    monkeypatch.setattr(loop, "fit_steps", None)
    assert [event.learning_rate for event in iter_train(parts, resume=True)] == [e.learning_rate for e in whole[4:]]
    same_run(tmp_path / "a", tmp_path / "b")


def test_measuring_changes_nothing(pictures, settings, every_loss, features, batches, tmp_path):
    config = settings(pictures, tmp_path, **every_loss)
    measured, plain = (run_module.Run(config, features=features) for _ in range(2))
    source = batches(pictures, config)
    for _ in range(2):
        measured.probe(source, 32, 2)
    assert measured.advance(source).terms == plain.advance(source).terms
    assert measured.advance(source).terms == plain.advance(source).terms


def test_compiled_or_not_is_a_matter_of_speed(pictures, settings, batches, tmp_path, monkeypatch):
    """Compiled with the backend that runs each operation as it is: the same losses and the same state."""
    compile_, calls = torch.compile, []

    def compiled(module, **options):
        calls.append(options)
        return compile_(module, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compiled)
    told = []
    for wanted, count in (("auto", 0), (False, 0), (True, 1)):
        config = settings(pictures, tmp_path, compile=wanted)
        run = run_module.Run(config)
        source = batches(pictures, config)
        told.append([run.advance(source).terms for _ in range(2)])
        assert len(calls) == count
    assert calls == [{"dynamic": False}]
    assert told[0] == told[1]
    for eager, fast in zip(told[0], told[2], strict=True):
        assert fast == pytest.approx(eager, rel=1e-4)
    assert set(run.network.state_dict()) == set(run.average)
