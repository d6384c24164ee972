"""The evaluation: every method on every set, a pair at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_dmgn.evaluation.methods import Method, method_of_model
from napari_dmgn.evaluation.reading import comparable
from napari_dmgn.evaluation.report import Evaluation, Excluded, Score, environment
from napari_dmgn.evaluation.sets import Item, PairSet, benchmark_set, folder_set, told_apart
from napari_dmgn.metrics import PROTOCOL_OF_TASK, find_protocol, score
from napari_dmgn.zoo import find_model

if TYPE_CHECKING:
    from napari_dmgn.model.descriptor import Model

__all__ = ["EvaluationEvent", "evaluate", "iter_evaluate"]

_LOG = logging.getLogger(__name__)

Array = NDArray[Any]
Folder = str | Path
Pictures = tuple[Array, Array, Array]


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """Progress after one method on one pair; the last event carries the evaluation.

    Attributes
    ----------
    done, total : pairs times methods
    set, index : the set at work, and the place of the pair in it
    score : None where the pair was excluded
    excluded : why it was
    pictures : input, result and target of the score
    evaluation : in the last event only
    """

    done: int
    total: int
    set: str = ""
    index: int = 0
    score: Score | None = None
    excluded: Excluded | None = None
    pictures: Pictures | None = None
    evaluation: Evaluation | None = None


Events = Generator[EvaluationEvent, None, None]


def evaluate(
    data: Folder | tuple[Folder, Folder] | PairSet | Sequence[Any],
    model: str | Path | Model | Method | Sequence[Any] | None = None,
    *,
    task: str | None = None,
    protocol: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
    progress: Callable[[EvaluationEvent], object] | None = None,
) -> Evaluation:
    """Score models on pairs of pictures with and without noise.

    Parameters
    ----------
    data : what to score them on, or a list of it
        A folder: a public test set if it bears its name (Rain100L, Rain100H, SOTS, O-HAZE, TestA,
        Real20, SIR2, CEILNet), else one with folders of inputs and targets. Two folders, as a tuple:
        inputs and targets. Or a `PairSet`. Folders of one name are told apart by those above them.
    model : a model's name, a checkpoint file, a loaded model, a `Method`, or a list of them
        All are scored on all data; None takes the model of each set's task.
    task : what is to be removed, for data that does not say so; None is rain
    protocol : a key of `metrics.PROTOCOLS`; None is that of the data
    limit : pairs to take of each part of each set; None takes all
    device, precision, tile, halo, downscale, ensemble : as in `restore`
    progress : called with an `EvaluationEvent` after every pair

    Returns
    -------
    Evaluation
        Scores of every pair and their means. A pair that cannot be read, or whose pictures differ
        in size, is in `excluded` and in no mean.

    Raises
    ------
    ValueError
        If an argument cannot be served, or no pair is left. It names the value seen and the value wanted.
    """
    events = iter_evaluate(
        data,
        model,
        task=task,
        protocol=protocol,
        limit=limit,
        device=device,
        precision=precision,
        tile=tile,
        halo=halo,
        downscale=downscale,
        ensemble=ensemble,
    )
    with closing(events):  # also where `progress` raises
        for event in events:
            if progress is not None:
                progress(event)
            if event.evaluation is not None:
                return event.evaluation
    raise RuntimeError("the events ended without an evaluation")


def iter_evaluate(
    data: Folder | tuple[Folder, Folder] | PairSet | Sequence[Any],
    model: str | Path | Model | Method | Sequence[Any] | None = None,
    *,
    task: str | None = None,
    protocol: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: int | str | None = "auto",
    halo: int | str = "exact",
    downscale: int | str = "auto",
    ensemble: bool = False,
) -> Events:
    """Evaluate pair by pair, as `evaluate` does, in steps that a caller can stop.

    The arguments are those of `evaluate` and are checked at once; work starts with the first event.
    """
    if protocol is not None:
        find_protocol(protocol)
    if limit is not None and not (isinstance(limit, (int, np.integer)) and limit is not True and limit >= 1):
        raise ValueError(f"limit is {limit!r}; wanted 1 or more pairs")
    sets = [one.scored_by(protocol).first(limit) for one in told_apart(_sets(data, task))]
    engine = {"device": device, "precision": precision, "tile": tile, "halo": halo}
    engine |= {"downscale": downscale, "ensemble": ensemble}
    chosen = _methods(model, sets, engine)
    return _events(sets, chosen)


def _sets(data: Any, task: str | None) -> list[PairSet]:
    if isinstance(data, PairSet):
        return [replace(data, folder=None)]  # named by its maker, who knows the events by that
    if isinstance(data, (str, Path)):
        return [benchmark_set(data, task=task)]
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, (str, Path)) for part in data):
        return [folder_set(*data, task=task)]
    if isinstance(data, Sequence) and data:
        return [one for part in data for one in _sets(part, task)]
    raise ValueError(f"data is a folder, two folders, a PairSet or a list of these; got {_seen(data)}")


def _methods(model: Any, sets: Sequence[PairSet], engine: dict[str, Any]) -> dict[str, list[Method]]:
    """Return the methods of each set, by its name."""
    wanted = list(model) if isinstance(model, (list, tuple)) else [] if model is None else [model]
    if model is not None and not wanted:
        raise ValueError("no models to evaluate; wanted one or more, or None for each task's own")
    if model is None:
        for one in sets:  # a task without a model is told before another one is loaded
            find_model(_own_task(one))
        own = {task: method_of_model(task, **engine) for task in dict.fromkeys(map(_own_task, sets))}
        return {one.name: [own[_own_task(one)]] for one in sets}
    from napari_dmgn.model.descriptor import Model

    for each in wanted:
        if isinstance(each, (str, Path)):
            find_model(each)
        elif not isinstance(each, (Method, Model)):
            raise ValueError(f"model is a name, a file, a loaded model, a Method or a list of these; got {_seen(each)}")
    methods = [each if isinstance(each, Method) else method_of_model(each, **engine) for each in wanted]
    return {one.name: _told_apart(methods) for one in sets}


def _seen(value: Any) -> str:
    """Return a value for a message of one line; an array is too long for it."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def _own_task(one: PairSet) -> str:
    if one.task is None:
        raise ValueError(f"set {one.name!r} has no task of its own; wanted a model or a task")
    return one.task


def _told_apart(methods: Sequence[Method]) -> list[Method]:
    """Give methods of the same name the beginning of their checksum."""
    names = [method.name for method in methods]
    apart = [
        replace(method, name=f"{method.name} ({str(method.facts.get('sha256', ''))[:8]})")
        if names.count(method.name) > 1
        else method
        for method in methods
    ]
    if len({method.name for method in apart}) < len(apart):
        raise ValueError(f"a model is given twice among {', '.join(names)}")
    return apart


def _events(sets: Sequence[PairSet], methods: dict[str, list[Method]]) -> Events:
    scores: list[Score] = []
    excluded: list[Excluded] = []
    total = sum(len(one.items) * len(methods[one.name]) for one in sets)
    done = 0
    for one in sets:
        for index, item in enumerate(one.items):
            for result, pictures in _score_item(one, item, methods[one.name]):
                event: dict[str, Any] = {"set": one.name, "index": index, "total": total}
                if isinstance(result, Excluded):
                    done += len(methods[one.name])
                    excluded.append(result)
                    yield EvaluationEvent(done=done, excluded=result, **event)
                else:
                    done += 1
                    scores.append(result)
                    yield EvaluationEvent(done=done, score=result, pictures=pictures, **event)
    if not scores:
        reason = f"{excluded[0].picture}: {excluded[0].reason}" if excluded else "there was none"
        raise ValueError(f"no pair could be scored; the first of {len(excluded)}: {reason}")
    used = {method.name: method for chosen in methods.values() for method in chosen}
    evaluation = Evaluation(
        scores=tuple(scores),
        excluded=tuple(excluded),
        methods={name: {"task": method.task, **method.facts} for name, method in used.items()},
        sets={one.name: {"task": one.task, "notes": list(one.notes), "published": one.published or {}} for one in sets},
        environment=environment(),
    )
    yield EvaluationEvent(done=total, total=total, evaluation=evaluation)


def _score_item(
    one: PairSet, item: Item, methods: Sequence[Method]
) -> Generator[tuple[Score | Excluded, Pictures | None], None, None]:
    """Yield every method's score of a pair, or once why there is none."""
    try:
        image, target = item.load()
        given, wanted = comparable(image), comparable(target)
        if given.shape != wanted.shape:
            seen = " and ".join(f"{p.shape[1]}x{p.shape[0]}" for p in (given, wanted))
            raise ValueError(f"input and target differ in size: {seen}")
        protocols = {_protocol(one, method) for method in methods}
        before = {name: score(given, wanted, name) for name in protocols}
    except ValueError as error:
        reason = " ".join(str(error).split())
        _LOG.info("left out of %s: %s: %s", one.name, item.name, reason)
        yield Excluded(set=one.name, part=item.part, picture=item.name, reason=reason), None
        return
    for method in methods:
        started = time.perf_counter()
        restored = method.run(image)
        seconds = time.perf_counter() - started
        name = _protocol(one, method)
        try:
            after = score(comparable(restored), wanted, name)
        except ValueError as error:
            raise ValueError(f"what {method.name} made of {item.name} cannot be scored: {error}") from error
        height, width = image.shape[:2]
        result = Score(
            set=one.name,
            part=item.part,
            picture=item.name,
            method=method.name,
            protocol=name,
            width=width,
            height=height,
            before=before[name],
            after=after,
            seconds=seconds,
            gmac=None if method.gmac is None else method.gmac(height, width),
        )
        yield result, (image, restored, target)


def _protocol(one: PairSet, method: Method) -> str:
    """Return a set's protocol, or for clean pictures that of what the method removes."""
    return one.protocol or PROTOCOL_OF_TASK[method.task or "haze"]
