"""What the commands share: options, the shape of an error line, the bar, JSON."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_dmgn.api import Restoration, RestoreEvent
from napari_dmgn.files import IMAGE_SUFFIXES
from napari_dmgn.zoo import TASKS


class UsageError(ValueError):
    """The arguments ask for something that cannot be done: exit status 2."""


def one_line(error: BaseException) -> str:
    """Say in one line what went wrong, without Python's words where the user need not know them."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        text = str(error)  # ours say what to install
        if text.startswith("No module named"):
            text = f"the package {error.name!r} is needed for this and is not installed"
    elif isinstance(error, (ValueError, OSError)) and str(error):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "out of memory"
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    return " ".join(text.split())


def add_model_options(parser: argparse.ArgumentParser, *, downscale: int | str = "auto") -> None:
    """Add the options that say which network runs, and how; `downscale` is a default."""
    parser.add_argument(
        "--task", choices=TASKS, help="what to remove (default: what --model was trained for, else rain)"
    )
    parser.add_argument("--model", metavar="NAME|PATH", help="a model's name or file (default: the task's own)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto", help="default: auto")
    parser.add_argument(
        "--tile", type=tile, default="auto", metavar="auto|none|N",
        help="side of the square windows in pixels; none: the whole image at once; auto: strips of rows, for OME-Zarr "
        "windows that fit into memory (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--halo", type=halo, default="exact", metavar="exact|N",
        help="pixels that a window reads beyond what it writes; used with a number as --tile, and for OME-Zarr "
        "(strips need none; default: exact)",
    )  # fmt: skip
    add_view_options(parser, downscale)


def add_view_options(parser: argparse.ArgumentParser, downscale: int | str = "auto") -> None:
    """Add the options that let the network see a smaller copy, and a mirrored one; `downscale` is a default."""
    parser.add_argument(
        "--downscale", type=_downscale, default=downscale, metavar="auto|N",
        help="let the network see the image N times smaller, and carry the result back to all pixels: for haze and "
        f"reflections in large images, not for rain; auto: as the model's card says (default: {downscale})",
    )  # fmt: skip
    parser.add_argument(
        "--ensemble", action="store_true",
        help="restore each image mirrored, too, and take the mean of both: somewhat better, and up to twice as slow",
    )  # fmt: skip


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_model_options` as keyword arguments of `restore`."""
    named = {
        name: getattr(args, name) for name in ("model", "device", "precision", "tile", "halo", "downscale", "ensemble")
    }
    return {"task": task_of(args), **named}


def task_of(args: argparse.Namespace) -> str:
    """Return the task: the one named, or else the model's."""
    from napari_dmgn.zoo import find_model

    if args.task or not args.model:
        return args.task or "rain"
    try:
        return find_model(args.model).task
    except (OSError, ValueError):
        return "rain"  # what is wrong with the model is told where it is loaded


def add_output_options(parser: argparse.ArgumentParser, overwrite: str = "replace existing results") -> None:
    """Add the folder for the results and the right to replace files there, with the words that explain it."""
    parser.add_argument(
        "-o",
        "--output",
        type=named_path,
        required=True,
        metavar="DIR",
        help="folder for the results, made if missing",
    )
    parser.add_argument("--overwrite", action="store_true", help=overwrite)


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for an answer that a program can read."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def named(text: str) -> str:
    """Parse what names a file or folder; nothing, as a shell's unset variable leaves it, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name; write . for the current folder")
    return text


def named_path(text: str) -> Path:
    """Parse a path; see `named`."""
    return Path(named(text))


def seed(text: str) -> int:
    """Parse what random numbers are drawn from, small enough for a sequence that counts on from it."""
    return _whole_number(text, least=0, most=2**62)


def tile(text: str) -> str | int | None:
    """Parse ``auto``, ``none`` or a positive whole number."""
    if text in ("auto", "none"):
        return text if text == "auto" else None
    return _whole_number(text, least=1, others="auto, none or ")


def halo(text: str) -> str | int:
    """Parse ``exact`` or a whole number."""
    return text if text == "exact" else _whole_number(text, least=0, others="exact or ")


def _downscale(text: str) -> str | int:
    return text if text == "auto" else _whole_number(text, least=1, others="auto or ")


def whole(text: str) -> int:
    """Parse a whole number from zero on."""
    return _whole_number(text, least=0)


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    return _whole_number(text, least=1)


def size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT``."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, 1024x768 say, got {text!r}")
    return width, height


def _whole_number(text: str, *, least: int, most: int | None = None, others: str = "") -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        wanted = f">= {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"expected {others}a whole number {wanted}, got {text!r}")
    return value


def check_folder(path: Path) -> None:
    """Refuse, before any work, an output folder that is a file, or would be a folder by a picture's name."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{str(path)!r} is a file; a folder is wanted for the results")
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.exists():
        raise UsageError(f"-o is a folder for the results, and {str(path)!r} is the name of an image file")


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, to replace a file that exists unless asked to."""
    if path.exists() and not overwrite:
        raise UsageError(f"{str(path)!r} exists; pass --overwrite to replace it")


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """Give a folder for new files; they move to `folder`, made if missing, once all are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".napari-dmgn-", dir=folder) as temporary:
        yield Path(temporary)
        for path in Path(temporary).iterdir():
            path.replace(folder / path.name)


class Bar:
    """A progress bar over `RestoreEvent`s, drawn on a terminal only."""

    def __init__(self, label: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=label, unit="tile", leave=False, disable=not sys.stderr.isatty())

    def __call__(self, event: RestoreEvent) -> None:
        """Show the event's progress."""
        self._bar.total = event.total
        self._bar.n = event.done
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def run_restore(label: str, image: Any, **arguments: Any) -> Restoration:
    """Restore an image under a bar; without `coarse`, which no command writes and which is as large as the image."""
    from napari_dmgn.api import restore

    bar = Bar(label)
    try:
        restoration = restore(image, progress=bar, **arguments)
    finally:
        bar.close()
    # The next image is worked on while this one waits to be written.
    return replace(restoration, coarse=restoration.coarse[:0].copy())


def print_json(value: object) -> None:
    """Print a value as JSON; paths and NumPy scalars become text and numbers."""
    print(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
