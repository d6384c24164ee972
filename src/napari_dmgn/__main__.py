"""``python -m napari_dmgn``, and what the script ``napari-dmgn`` starts."""

import sys


def main() -> int:
    """Run the command line and return its exit status."""
    try:
        from napari_dmgn.cli import main as command_line  # here, so that Ctrl-C meets no traceback
    except KeyboardInterrupt:
        sys.stderr.write("napari-dmgn: error: stopped\n")
        return 130
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
