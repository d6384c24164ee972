"""The command line ``napari-dmgn``: one module a command, and the only place that prints.

Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted, 143 terminated. A failure is one line on
stderr, and with ``--debug`` the traceback too.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from napari_dmgn import __version__
from napari_dmgn.cli import benchmark, demo, evaluate, models, restore, synthesize, train
from napari_dmgn.cli.common import UsageError, one_line

_COMMANDS = (restore, demo, models, synthesize, train, evaluate, benchmark)
_INTERRUPTED = 130
_TERMINATED = 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send; what was begun is put away as after Ctrl-C."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which never guesses an abbreviated option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="napari-dmgn",
        description="Restore the clean background of images under rain, haze, reflections or noise of your own.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    # For --help; main takes it out of the arguments, wherever it stands among them.
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").splitlines()[0]
        subparser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    with _messages_on_stderr(), _any_name_on_stdout(), _terminated_as_interrupted():
        try:
            args = build_parser().parse_args([word for word in argv if word != "--debug"])
            status: int = args.run(args)
            if sys.stdout is not None:  # it was not closed beforehand
                sys.stdout.flush()  # here, so that a closed pipe is met inside the `try`
        except SystemExit as exit_:  # --help, --version
            return exit_.code if isinstance(exit_.code, int) else 0
        except KeyboardInterrupt as stop:
            return _fail("stopped", _TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED, debug)
        except BrokenPipeError:  # the reader of our output, `head` say, has gone
            return 1
        except UsageError as error:
            return _fail(one_line(error), 2, debug)
        except Exception as error:
            return _fail(one_line(error), 1, debug)
    return status


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"napari-dmgn: error: {message}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"napari-dmgn: warning: {' '.join(str(message).split())}", file=sys.stderr)


class _Once(logging.Filter):
    """Lets a message pass once: models that are left out are met at each look for one."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message in self._told:
            return False
        self._told.add(message)
        return True


@contextmanager
def _any_name_on_stdout() -> Iterator[None]:
    """Escape what stdout cannot encode, as stderr does: a file's name need not be text."""
    stream = sys.stdout
    if stream is None or not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        try:
            stream.reconfigure(errors=before)  # which writes what is left
        except OSError:  # nobody takes it, and Python's end is not to try again
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Raise on SIGTERM as on SIGINT; where a program that calls us has a handler of its own, it stays."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    ours = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show warnings and the library's log as single lines."""
    logger = logging.getLogger("napari_dmgn")
    handler = logging.StreamHandler()
    handler.addFilter(_Once())
    handler.setFormatter(logging.Formatter("napari-dmgn: %(message)s"))
    logger.addHandler(handler)
    # What it has to say of a broken file is in our own line.
    foreign = logging.getLogger("tifffile")
    before, foreign.disabled = foreign.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        logger.removeHandler(handler)
        foreign.disabled = before
