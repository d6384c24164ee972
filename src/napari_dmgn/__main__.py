"""``python -m napari_dmgn``: the command line without the script."""

import sys

from napari_dmgn.cli import main

if __name__ == "__main__":
    sys.exit(main())
