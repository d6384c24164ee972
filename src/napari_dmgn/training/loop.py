"""The training loop: a generator of one event per step."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from napari_dmgn import checkpoint
from napari_dmgn.data import PicturePool, find_pictures, split_pictures
from napari_dmgn.training.card import model_card
from napari_dmgn.training.run import STATE, Run
from napari_dmgn.training.settings import TrainConfig
from napari_dmgn.training.validation import validate

__all__ = ["TrainEvent", "iter_train", "train"]

LOG = "log.jsonl"
MODEL = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainEvent:
    """What happened in one step.

    Attributes
    ----------
    step, steps : int
        Steps done and wanted.
    loss : float
    terms : dict of str to float
        Each loss before its weight.
    learning_rate, seconds : float
        `seconds` counts the whole run, resumed parts included.
    validation : dict or None
        PSNR in dB (`rain-y`) by part, where the step was followed by a validation.
    model : Path or None
        The finished model, in the last event.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    seconds: float
    validation: dict[str, float] | None = None
    model: Path | None = None


def iter_train(
    config: TrainConfig, *, resume: bool = False, overwrite: bool = False
) -> Generator[TrainEvent, None, None]:
    """Train a model, one event per step; stop by closing the generator.

    The last state is saved when the generator ends or is closed, and every `save_minutes`.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Continue the run in `config.run`; a run without a saved state starts anew.
    overwrite : bool
        Start anew although the folder holds a run.

    Raises
    ------
    ValueError
        Data that cannot be used, or a folder with an earlier run and neither option given.
    FloatingPointError
        The loss is not finite.
    """
    folder = Path(config.run)
    state_exists = (folder / STATE).exists()
    if state_exists and not (resume or overwrite):
        raise ValueError(f"{folder} holds an earlier run; resume it, or allow to overwrite it")
    training, held_out = split_pictures(find_pictures(config.data), config.validation_pictures)
    largest = max(crop for _, crop, _ in config.phases)
    pool = PicturePool(training, least=largest)
    validation = PicturePool(held_out, least=config.validation_crop)
    run = Run(config, pool.digest)
    if state_exists and resume:
        run.load_state()
    elif overwrite:
        for name in (STATE, LOG):  # a state left here would be resumed if this run is killed early
            (folder / name).unlink(missing_ok=True)
    return _steps(run, pool, validation)


def _steps(run: Run, pool: PicturePool, validation: PicturePool) -> Generator[TrainEvent, None, None]:
    config = run.config
    saved = clock = time.monotonic()
    saved_step = run.step
    try:
        while run.step < config.steps:
            torch.set_flush_denormal(True)  # denormals in young moments slow a CPU down several times
            loss, terms, rate = run.advance(pool)
            torch.set_flush_denormal(False)  # the caller's code between two steps is not ours
            now = time.monotonic()
            run.seconds, clock = run.seconds + now - clock, now
            scores = None
            if run.step % config.validate_every == 0 or run.step == config.steps:
                scores = validate(run.averaged(), validation, run)
            event = TrainEvent(
                step=run.step,
                steps=config.steps,
                loss=loss,
                terms=terms,
                learning_rate=rate,
                seconds=run.seconds,
                validation=scores,
            )
            if run.step == config.steps:
                # The model first: killed between the two, a resumed run writes both.
                event = replace(event, model=_finish(run, pool, validation, scores or {}))
                run.save_state()
                saved_step = run.step
            elif now - saved > 60 * config.save_minutes:
                run.save_state()
                saved, saved_step = now, run.step
            _log(event, Path(config.run))
            yield event
    finally:
        torch.set_flush_denormal(False)
        # An interrupt may fall into the middle of a step; such a state is never saved.
        if saved_step < run.step < config.steps and run.between_steps:
            run.save_state()


def _log(event: TrainEvent, folder: Path) -> None:
    if event.step % 20 and event.validation is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in asdict(event).items() if v is not None and k != "model"}
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _finish(run: Run, pool: PicturePool, validation: PicturePool, scores: Mapping[str, float]) -> Path:
    config = run.config
    path = Path(config.run) / MODEL
    network = run.averaged()
    if config.half:
        network = network.half()
    checkpoint.save(path, network, task=config.task, card=model_card(run, pool, validation, scores))
    return path


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a model to the end and return its file; see `iter_train`."""
    path = None
    for event in iter_train(config, resume=resume, overwrite=overwrite):
        path = event.model
    if path is None:  # a finished run that was resumed: nothing was left to do
        path = Path(config.run) / MODEL
    return path
