"""The training loop: a generator of one event per step."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from napari_dmgn import checkpoint, perceptual
from napari_dmgn.data import Batches, Collection, PicturePool
from napari_dmgn.data.collection import Arrays
from napari_dmgn.paths import expanded
from napari_dmgn.training.budget import fit_steps
from napari_dmgn.training.card import model_card
from napari_dmgn.training.depth import read_depth
from napari_dmgn.training.events import Comparison, TrainEvent
from napari_dmgn.training.features import check_crops, read_features
from napari_dmgn.training.folder import BEST, MODEL, check_folder, check_space, check_writable, clean, model_step
from napari_dmgn.training.gathering import gather
from napari_dmgn.training.log import Log
from napari_dmgn.training.processes import join
from napari_dmgn.training.run import Done, Run
from napari_dmgn.training.settings import TrainConfig
from napari_dmgn.training.state import STATE, load_state, save_state
from napari_dmgn.training.validation import mean_score, validate

__all__ = ["BEST", "MODEL", "iter_train", "train"]

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Training:
    """A run and what it is fed with."""

    run: Run
    batches: Batches
    collection: Collection
    depth: PicturePool | None

    @property
    def folder(self) -> Path:
        return Path(self.run.config.run)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.run.processes.rank == 0

    def validate(self) -> dict[str, float]:
        return validate(self.run.averaged(), self.collection.held, self.run, self.depth)


def iter_train(
    config: TrainConfig,
    *,
    arrays: Arrays = (),
    features: perceptual.Features | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Generator[TrainEvent, None, None]:
    """Train a model, one event per step; stop by closing the generator.

    The last state is saved when the generator ends or is closed, and every `save_minutes`. Beside
    the last model, `best.safetensors` is the one with the best validation so far.

    Parameters
    ----------
    config : TrainConfig
    arrays : sequence of arrays, or of pairs (input, background) of arrays
        Pictures to train on beside, or instead of, the folders that the settings name: (H, W),
        (H, W, 3 or 4), or stacks of them.
    features : callable or None
        What the perceptual losses compare by, in place of `config.features`: a module that maps
        (N, 3, H, W) images in [0, 1] to a list of feature maps; `smallest`, if it has that, is the least
        H and W.
    resume : bool
        Continue the run in `config.run`; an empty folder starts anew. The first event may be of the step
        it was stopped at, without terms, if that was to be validated.
    overwrite : bool
        Start anew although the folder holds a run.

    Raises
    ------
    ValueError
        Data that cannot be used, or a folder with an earlier run and neither option given.
    FloatingPointError
        A loss is not finite; the last good state is saved.
    OSError
        The folder cannot be written, which is tried before the first step, or the disk is full; the
        state saved last is still there.
    """
    folder = Path(config.run)
    check_folder(folder, resume=resume, overwrite=overwrite, start=config.start)
    digests = []
    weights = config.loss_weights()
    if features is None and (weights.perceptual or weights.coarse_perceptual):
        if config.features is None:
            raise ValueError(
                "the perceptual losses compare by VGG-19's features; wanted features, a file of them, "
                "or losses with perceptual and coarse_perceptual 0"
            )
        features, digest = read_features(config.features)
        digests.append(digest)
    if weights.perceptual or weights.coarse_perceptual:
        check_crops(config, features)
    processes = join(config.device)
    collection = gather(config, arrays=arrays, device=processes.device)
    depth = None
    if config.depth:  # validation crops them too
        depth = read_depth(config.depth, max(config.largest_crop, config.validation_crop), processes.device)
    if depth is not None:
        digests.append(depth.digest)
    digest = collection.digest
    if digests:  # whatever else a step depends on
        digest = hashlib.sha256("".join([digest, *digests]).encode()).hexdigest()
    resumed = resume and (folder / STATE).exists()
    run = Run(config, digest, processes=processes, features=features, started=resumed)
    if processes.rank == 0:
        for line in collection.report.problems():
            _logger.warning("left out: %s", line)
    extras = config.extras(depth)
    training = _Training(
        run=run, batches=Batches(collection.sources, extras, run.device), collection=collection, depth=depth
    )
    check_space(run)
    if resumed:
        load_state(run)
    _check_one_folder(run)
    processes.barrier()  # every process has seen the folder before one changes it
    if processes.rank == 0:
        check_writable(folder)
        clean(folder, everything=overwrite and not resume)
    return _steps(training)


def _check_one_folder(run: Run) -> None:
    # A process that does not see the state would start anew beside others that go on.
    # By the variance, so that all of them leave here: one may well be at the mean of the others.
    means = run.agreed({"step": float(run.step), "square": float(run.step**2)})
    if means["square"] - means["step"] ** 2 > 1e-3:
        raise ValueError(
            f"cannot resume {run.config.run}: process {run.processes.rank} finds it at step {run.step} and others "
            "do not; wanted a folder that all processes share"
        )


def _steps(training: _Training) -> Generator[TrainEvent, None, None]:
    run, config = training.run, training.run.config
    saved = clock = time.monotonic()
    if config.minutes is not None and run.step == 0:
        run.fit(fit_steps(run, training.batches, config.minutes, training.validate))
    saved_step = run.step
    log = Log(training.folder, run.step)
    try:
        if (event := _caught_up(training)) is not None:
            _save(training)
            log = Log(training.folder, run.step - 1)  # which may have this step, without what is made up for
            if training.main:
                log(event)
            yield event
        if run.step == 0 and not run.finished():
            _save(training)  # a run that is killed soon is resumed, too
        while not run.finished():
            torch.set_flush_denormal(True)  # denormals in young moments slow a CPU down several times
            done = run.advance(training.batches)
            torch.set_flush_denormal(False)  # the caller's code between two steps is not ours
            now = time.monotonic()
            run.seconds, clock, run.loss = run.seconds + now - clock, now, done.loss
            event = _event(training, done)
            if run.finished():
                # The model first: killed between the two, a resumed run writes both.
                event = _finish(training, event)
                _save(training)
                saved_step = run.step
            elif now - saved > 60 * config.save_minutes:
                try:
                    _save(training)
                    saved_step = run.step
                except OSError as error:
                    _logger.warning(
                        "state of step %d not saved, that of step %d is kept: %s", run.step, saved_step, error
                    )
                saved = now
            if training.main:
                log(event)
            yield event
        run.processes.barrier()  # none leaves before the others have had the last exchange
    finally:
        torch.set_flush_denormal(False)
        # An interrupt may fall into the middle of a step; such a state is never saved. That of the last step is,
        # also where its model could not be written: a resumed run writes that then.
        if saved_step < run.step and run.between_steps:
            _save(training)
        run.release()


def _save(training: _Training) -> None:
    if training.main:
        save_state(training.run)


def _event(training: _Training, done: Done) -> TrainEvent:
    run = training.run
    event = TrainEvent(
        step=run.step,
        steps=run.steps,
        loss=done.loss,
        terms=done.terms,
        learning_rate=done.rate,
        seconds=run.seconds,
        timing=done.timing,
    )
    return _validated(training, event) if run.wants_validation() else event


def _validated(training: _Training, event: TrainEvent) -> TrainEvent:
    run = training.run
    scores = run.agreed(training.validate())
    best, score = None, mean_score(scores)
    if run.is_best(score):
        best = training.folder / BEST
        if training.main:
            _write_model(training, best, scores)
    run.note(score)  # only now: no state says that there is a best which the file is not
    return replace(event, validation=scores, best=best, stopped=run.stopped, network=run.averaged)


def _caught_up(training: _Training) -> TrainEvent | None:
    """Do what was still to be done of the last step when the run was stopped: its validation, a finished run's model.

    Returns None where nothing was.
    """
    run = training.run
    unwritten = run.finished() and run.loss is not None and model_step(training.folder) != run.step
    missing = run.agreed({"model": float(unwritten), "validation": float(run.wants_validation())})
    if not any(missing.values()):
        return None
    event = TrainEvent(
        step=run.step,
        steps=run.steps,
        loss=run.loss or 0.0,
        terms={},
        learning_rate=run.config.learning_rate * run.schedule.share_of_rate(run.step - 1),
        seconds=run.seconds,
    )
    if missing["validation"]:
        event = _validated(training, event)
    else:
        best = training.folder / BEST if run.stale == 0 else None  # as it was noted
        event = replace(event, validation=run.agreed(training.validate()), best=best, stopped=run.stopped)
    return _finish(training, event) if run.finished() else event


def _finish(training: _Training, event: TrainEvent) -> TrainEvent:
    run = training.run
    path = training.folder / MODEL
    comparison = None
    scores = event.validation or {}
    base = None
    try:
        base = run.base()
    except ValueError as error:  # gone since the run began; what it made is not lost for that
        _logger.warning("not compared with the model that the run started from: %s", error)
    if base is not None:
        assert run.config.start is not None
        before = validate(base, training.collection.held, run, training.depth)
        comparison = Comparison(
            base=_name_of(run.config.start),
            before=mean_score(before),
            after=mean_score(scores),
            best=run.best,
        )
    if training.main:
        _write_model(training, path, scores, comparison)
    return replace(event, model=path, comparison=comparison)


def _name_of(start: str) -> str:
    path = Path(start)
    if path.name in (MODEL, BEST):  # what every run calls its own; the folder says which
        return expanded(path).absolute().parent.name or path.stem
    return path.name.removesuffix(".safetensors")


def _write_model(
    training: _Training, path: Path, scores: dict[str, float], comparison: Comparison | None = None
) -> None:
    run = training.run
    network = run.averaged()
    if run.config.half:
        network = checkpoint.halve(network)
    card = model_card(run, training.collection, scores, comparison)
    checkpoint.save(path, network, task=run.config.task, card=card)


def train(
    config: TrainConfig,
    *,
    arrays: Arrays = (),
    features: perceptual.Features | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train a model to the end and return its file; see `iter_train`."""
    path = None
    for event in iter_train(config, arrays=arrays, features=features, resume=resume, overwrite=overwrite):
        path = event.model
    if path is None:  # a finished run that was resumed: nothing was left to do
        path = Path(config.run) / MODEL
    return path
