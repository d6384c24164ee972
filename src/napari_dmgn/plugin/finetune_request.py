"""What a fine-tuning is asked for, and the folder that its run lives in. Loads neither torch nor Qt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_dmgn import zoo

__all__ = [
    "EVENTS",
    "KINDS",
    "FineTuneRequest",
    "Kind",
    "UnfinishedRun",
    "check_name",
    "new_run_folder",
    "read_messages",
    "runs_folder",
    "unfinished_runs",
]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something to put on clean pictures.

    Attributes
    ----------
    label : str
    kind : str
        A key of `synthesis.mixtures.TASK_PARTS`.
    parts : mapping of str to float
        Weights of its parts; empty is the usual mixture.
    """

    label: str
    kind: str
    parts: Mapping[str, float] = field(default_factory=dict)


KINDS = {
    "rain": Kind(label="Rain streaks", kind="rain"),
    "haze": Kind(label="Haze", kind="haze"),
    "reflection": Kind(label="Reflections", kind="reflection"),
    # Some pictures without noise teach the network to leave such pictures alone.
    "dark stripes": Kind(label="Dark stripes (light sheet)", kind="stripes", parts={"dark": 0.92, "none": 0.08}),
    "bright stripes": Kind(label="Bright stripes", kind="stripes", parts={"bright": 0.92, "none": 0.08}),
    "stripes": Kind(label="Stripes, dark or bright", kind="stripes"),
    "veil": Kind(label="Out-of-focus light", kind="veil"),
    "glow": Kind(label="Uneven background: glow", kind="background", parts={"glow": 0.92, "none": 0.08}),
    "shading": Kind(label="Uneven background: shading", kind="background", parts={"shade": 0.92, "none": 0.08}),
}
"""What the widget offers to put on clean pictures."""

REQUEST = "request.json"
SETTINGS = "settings.toml"
EVENTS = "events.jsonl"
OUTPUT = "process.log"
RESULT = "result.safetensors"
# Of the trainer; its modules would load torch.
MODEL = "model.safetensors"

_NAME = re.compile(r"\w[\w .+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class FineTuneRequest:
    """A fine-tuning, complete: nothing is asked of a widget or a layer once it has started."""

    name: str
    """Of the new model."""
    base: str
    """The model's file to start from."""
    task: str
    """Of the base model."""
    sources: tuple[Mapping[str, str], ...]
    """Folders, as in `TrainConfig.sources`."""
    kind: str | None = None
    """What is put on clean pictures, a key of `KINDS`; None where the sources are pairs."""
    minutes: float | None = None
    """Time for the training, or None; one of `minutes` and `steps` is given."""
    steps: int | None = None
    share: float = 0.2
    """Share of the pictures that is held out for validation."""
    learning_rate: float = 1e-3
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check what a user may have typed."""
        object.__setattr__(self, "sources", tuple(dict(source) for source in self.sources))
        if not self.sources:
            raise ValueError("no pictures are named to train on")
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"kind of noise is {self.kind!r}; wanted one of {', '.join(KINDS)}")
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(f"minutes are {self.minutes} and steps {self.steps}; wanted one of the two")
        if not 0 < (self.minutes or self.steps or 0) < math.inf:
            raise ValueError(f"the budget is {self.minutes or self.steps}; wanted a number above 0")
        if not 0 < self.share < 1:
            raise ValueError(f"the share for validation is {self.share}; wanted more than 0 and less than 1")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"the learning rate is {self.learning_rate}; wanted more than 0 and less than 1")

    def write(self, folder: Path) -> None:
        """Write the request into its run's folder."""
        (folder / REQUEST).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> FineTuneRequest:
        """Read the request of a run's folder.

        Raises
        ------
        ValueError
            It is missing or damaged.
        """
        path = folder / REQUEST
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error


def check_name(name: str) -> str:
    """Return a name that a new model can have; ValueError says why another cannot."""
    name = name.strip()
    if not name:
        raise ValueError("Give the new model a name.")
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ValueError(f"'{name}' cannot be a model's name: use letters, digits, spaces and . _ + - (at most 64).")
    taken = {model.name.lower() for model in zoo.list_models()} | set(zoo.TASKS)
    if name.lower() in taken or (zoo.models_folder() / f"{name}.safetensors").exists():
        raise ValueError(f"There is a model '{name}' already. Choose another name.")
    return name


def runs_folder() -> Path:
    """Return where runs are kept unless the user picks another folder: beside the user's models."""
    return zoo.models_folder().parent / "runs"


def new_run_folder(root: Path, name: str) -> Path:
    """Make a new folder for a run, numbered where the name is taken.

    Raises
    ------
    ValueError
        The folder cannot be made.
    """
    path, number = root / name, 1
    try:
        while path.exists():
            number += 1
            path = root / f"{name} {number}"
        path.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"cannot make the run's folder {path}: {error.strerror or error}") from error
    return path


def read_messages(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the messages that a run's process has written; a line that is cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "kind" in message:
            yield message


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run that was stopped, or broke off, and can go on."""

    folder: Path
    name: str
    step: int
    steps: int

    @property
    def label(self) -> str:
        """The run in a list of choices."""
        return f"{self.name}: step {self.step} of {self.steps}"


def unfinished_runs(root: Path) -> list[UnfinishedRun]:
    """Return the runs in a folder that can go on, the latest first."""
    found = []
    for settings in root.glob(f"*/{SETTINGS}"):
        folder = settings.parent
        if (folder / MODEL).exists():
            continue
        try:
            request = FineTuneRequest.read(folder)
        except ValueError:
            continue
        step = steps = 0
        for message in read_messages(folder / EVENTS):
            step, steps = message.get("step", step), message.get("steps", steps)
        events = folder / EVENTS
        changed = (events if events.exists() else settings).stat().st_mtime
        found.append((changed, UnfinishedRun(folder=folder, name=request.name, step=step, steps=steps)))
    return [run for _, run in sorted(found, key=lambda item: item[0], reverse=True)]
