"""The command line ``napari-dmgn``: one module a command, and the only place that prints.

Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. A failure is one line on stderr, and
with ``--debug`` the traceback too.
"""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from napari_dmgn import __version__
from napari_dmgn.cli import benchmark, demo, evaluate, models, restore, synthesize, train
from napari_dmgn.cli.common import UsageError, one_line

_COMMANDS = (restore, demo, models, synthesize, train, evaluate, benchmark)
_INTERRUPTED = 130


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
    with _messages_on_stderr():
        try:
            args = build_parser().parse_args([word for word in argv if word != "--debug"])
            status: int = args.run(args)
            sys.stdout.flush()  # here, so that a closed pipe is met inside the `try`
        except SystemExit as exit_:  # --help, --version
            return exit_.code if isinstance(exit_.code, int) else 0
        except KeyboardInterrupt:
            return _fail("stopped", _INTERRUPTED, debug)
        except BrokenPipeError:  # the reader of our output, `head` say, has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show warnings and the library's log as single lines."""
    logger = logging.getLogger("napari_dmgn")
    handler = logging.StreamHandler()
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
