"""The process that fine-tunes: python -m napari_dmgn.plugin.finetune_process RUN [--check].

It reads RUN/request.json, or goes on with the run that RUN/settings.toml describes, and tells what it
does line by line in RUN/events.jsonl. On standard input it takes the words ``go`` (train although
pictures are left out) and ``stop``. The end of the input is a ``stop`` too: when napari is closed, or
dies, the state is saved and nothing is left running. It loads neither napari nor Qt.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from napari_dmgn import checkpoint
from napari_dmgn.plugin.finetune_request import EVENTS, MODEL, RESULT, SETTINGS, FineTuneRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_dmgn.data import Collection
    from napari_dmgn.model.network import DMGN
    from napari_dmgn.training import TrainConfig, TrainEvent
    from napari_dmgn.training.run import Run

# A step that takes longer than this after a stop is not waited for.
_PATIENCE = 120.0
_LOCK = "lock"


class Messages:
    """Lines of JSON for napari, which reads them as they come."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, kind: str, **values: Any) -> None:
        """Write one."""
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()


class Orders:
    """What napari asks for while the process runs."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self.go = threading.Event()
        self.stop = threading.Event()
        self.nothing_to_save = True
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        text = b""
        while b"stop" not in text:
            # Not through sys.stdin: a thread that waits there blocks the interpreter's end.
            read = os.read(0, 256)
            text += read or b"stop"
            if b"go\n" in text:
                self.go.set()
        self.stop.set()
        if self.nothing_to_save:
            self._messages("stopped")
            os._exit(0)
        time.sleep(_PATIENCE)
        os._exit(1)

    def wait_for_go(self) -> None:
        """Wait for leave to train; a stop ends the process."""
        self.go.wait()


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; ValueError where one is in it."""
    with (folder / _LOCK).open("a+b") as file:
        try:
            _lock(file)
        except OSError:
            raise ValueError(f"another process trains in {folder}; wait for it, or stop it") from None
        yield


def _lock(file: IO[bytes]) -> None:
    # Both kinds end with the process, however it ends.
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def main(arguments: list[str]) -> int:
    """Check or train; return the exit status."""
    folder = Path(arguments[0])
    messages = Messages(folder / EVENTS)
    if hasattr(os, "nice"):
        os.nice(5)  # napari, on the same cores, stays quick
    try:
        with only_one(folder):
            _work(folder, messages, Orders(messages), check="--check" in arguments)
    except Exception as error:
        details = "" if isinstance(error, ValueError) else traceback.format_exc()
        messages("error", message=_explain(error), details=details)
        return 1
    return 0


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "Not enough memory to train here. Close other programs, or choose the CPU under Advanced."
    if isinstance(error, ValueError | OSError | FloatingPointError) and text:
        return text
    return f"Unexpected {type(error).__name__}: {text}"


def _work(folder: Path, messages: Messages, orders: Orders, *, check: bool) -> None:
    from napari_dmgn.training.gathering import gather
    from napari_dmgn.training.run import Run

    request = FineTuneRequest.read(folder)
    goes_on = (folder / SETTINGS).exists()
    config = _settings(request, folder)
    collection = gather(config, checking=True)
    report = collection.report
    problems = report.problems()
    usable = bool(report.training and report.validation)
    messages(
        "report",
        lines=report.lines(),
        problems=problems,
        training=report.training,
        validation=report.validation,
        asks=usable and bool(problems) and not check and not goes_on,
    )
    if check:
        return
    if not usable:
        raise ValueError(f"cannot train on these pictures: {'; '.join(problems)}")
    if problems and not goes_on:
        orders.wait_for_go()
    run = Run(config, started=True)  # only for what it validates by
    began = time.monotonic()
    before = _Validation(run, collection)
    seconds = time.monotonic() - began
    if request.minutes is not None and not goes_on:
        from napari_dmgn.plugin.finetune_settings import spend

        config = spend(config, request.minutes - seconds / 60, run, collection, seconds)
    if not goes_on:
        _write_settings(config, folder)
    # Only now: napari draws the example, on the cores whose speed has just been measured.
    messages(
        "base",
        model=Path(request.base).stem,
        scores=before.scores,
        mean=before.mean,
        untouched=before.untouched,
        example=before.show(folder),
    )
    collection.sources.clear()  # the training reads its own
    del run
    _train(config, messages, orders, before)


def _settings(request: FineTuneRequest, folder: Path) -> TrainConfig:
    from napari_dmgn.data import SourceSpec, collect
    from napari_dmgn.plugin.finetune_settings import choose_settings, picture_sides
    from napari_dmgn.training import TrainConfig
    from napari_dmgn.training.state import read_config

    if (folder / SETTINGS).exists():
        saved = read_config(folder) or {}  # it goes on with its network when the model it started from gets another
        kept = {"network": saved["network"]} if saved.get("network") else {}
        return TrainConfig.from_file(folder / SETTINGS, run=str(folder), **kept)
    specs = [SourceSpec.from_dict(source) for source in request.sources]
    # A first look at whatever there is: the sizes decide on the crops.
    report = collect(specs, crop=1, validation=1, validation_crop=1, checking=True).report
    sides = picture_sides(report)
    if not sides:
        raise ValueError(f"no picture can be used: {'; '.join(report.problems()) or 'there is none'}")
    return choose_settings(request, folder, sides)


def _write_settings(config: TrainConfig, folder: Path) -> None:
    from napari_dmgn.plugin.finetune_settings import to_toml
    from napari_dmgn.training import TrainConfig

    usual = TrainConfig().to_dict()
    changed = {name: value for name, value in config.to_dict().items() if value != usual[name]}
    temporary = folder / f"{SETTINGS}.part"
    temporary.write_text(to_toml(changed), encoding="utf-8")
    temporary.replace(folder / SETTINGS)


class _Validation:
    """The base model on the pictures held out, and one of these as an example to look at."""

    def __init__(self, run: Run, collection: Collection) -> None:
        from napari_dmgn.training.validation import mean_score, validate, validation_pairs

        base = run.base()
        assert base is not None
        self._run = run
        self.scores = validate(base, collection.held, run)
        self.mean = mean_score(self.scores)
        as_they_are = [value for name, value in self.scores.items() if name.endswith(" input")]
        self.untouched = sum(as_they_are) / len(as_they_are)
        _, self._pair = next(validation_pairs(collection.held, run))
        self._base = self._restored(base)

    def _restored(self, network: DMGN) -> NDArray[Any]:
        import torch

        with torch.inference_mode(), self._run.autocast():
            output = network(self._pair.input[:1].to(self._run.device))
        return _pixels(output.background)

    def show(self, folder: Path, network: DMGN | None = None) -> str:
        """Write the example, restored by a network or by the base model; return the file."""
        import numpy as np

        from napari_dmgn.files import replacing

        current = self._base if network is None else self._restored(network)
        planes = [_pixels(self._pair.input), self._base, current, _pixels(self._pair.background)]
        path = folder / "example.npy"
        with replacing(path) as file:
            np.save(file, np.stack(planes))
        return str(path)


def _pixels(images: Any) -> NDArray[Any]:
    """Return the first image as (H, W, 3) uint8."""
    pixels: NDArray[Any] = (images[0].float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def _train(config: TrainConfig, messages: Messages, orders: Orders, before: _Validation) -> None:
    from napari_dmgn.training import iter_train
    from napari_dmgn.training.state import STATE

    folder = Path(config.run)
    resume = (folder / STATE).exists()
    # Without a state, what a run that broke off early has left is of no use to anybody.
    with closing(iter_train(config, resume=resume, overwrite=not resume)) as events:
        orders.nothing_to_save = False
        for event in events:
            _tell(event, messages, before, folder)
            if orders.stop.is_set() and event.model is None:
                break
    finished = (folder / MODEL).exists()
    messages("done" if finished else "stopped", **_result(folder, before, Path(config.start or "").stem))


def _tell(event: TrainEvent, messages: Messages, before: _Validation, folder: Path) -> None:
    from napari_dmgn.training.validation import mean_score

    values: dict[str, Any] = {
        "step": event.step,
        "steps": event.steps,
        "loss": event.loss,
        "seconds": event.seconds,
    }
    if event.validation is not None and event.network is not None:
        values |= {"scores": event.validation, "mean": mean_score(event.validation), "best": event.best is not None}
        values["example"] = before.show(folder, event.network())
    messages("step", **values, stopped=event.stopped)


def _result(folder: Path, before: _Validation, base: str) -> dict[str, Any]:
    """Write the best model so far as the result, with what it gained in its card; nothing before a validation."""
    from napari_dmgn.training import Comparison
    from napari_dmgn.training.loop import BEST
    from napari_dmgn.training.validation import mean_score

    # The last comes first: it is taken where both are equally good.
    there = [path for path in (folder / MODEL, folder / BEST) if path.exists()]
    scored = [(mean_score(checkpoint.read_header(path).card["scores"]), path) for path in there]
    if not scored:
        return {}
    after, path = max(scored, key=lambda item: item[0])
    comparison = Comparison(base=base, before=before.mean, after=after).to_dict()
    # Where the base model does harm, it is no feat to be better.
    comparison |= {"untouched": before.untouched, "helps": after > before.untouched}
    model = checkpoint.load(path)
    card = {**model.metadata.card, "comparison": comparison}
    checkpoint.save(folder / RESULT, model.network, task=model.metadata.task, card=card)
    return {"result": str(folder / RESULT), **comparison}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
