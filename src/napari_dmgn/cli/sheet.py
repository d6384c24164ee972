"""The before/after sheet: a row a picture, a column a part or a model, drawn with Pillow."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_dmgn.files import write_image

COLUMNS = ("Input", "Background", "Noise", "Noise distribution map")
_CELL_WIDTH = 320
_GAP = 8
_TEXT_HEIGHT = 26
_PAPER, _INK = (255, 255, 255), (30, 30, 30)


class Row(NamedTuple):
    """A caption and a picture for each column: uint8, (H, W, 3) or (H, W), all of one height and width."""

    caption: str
    pictures: tuple[np.ndarray, ...]


def write_sheet(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows as one PNG, under the columns' titles."""
    from PIL import Image, ImageDraw, ImageFont

    heights = [max(1, round(_CELL_WIDTH * row.pictures[0].shape[0] / row.pictures[0].shape[1])) for row in rows]
    width = _GAP + len(columns) * (_CELL_WIDTH + _GAP)
    height = _TEXT_HEIGHT + sum(cell + _TEXT_HEIGHT + _GAP for cell in heights) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    lefts = [_GAP + index * (_CELL_WIDTH + _GAP) for index in range(len(columns))]
    for left, title in zip(lefts, columns, strict=True):
        draw.text((left, _GAP // 2), title, fill=_INK, font=font)
    top = _TEXT_HEIGHT
    for row, cell in zip(rows, heights, strict=True):
        draw.text((_GAP, top), row.caption, fill=_INK, font=font)
        top += _TEXT_HEIGHT
        for left, picture in zip(lefts, row.pictures, strict=True):
            image = Image.fromarray(picture).convert("RGB")
            sheet.paste(image.resize((_CELL_WIDTH, cell), Image.Resampling.LANCZOS), (left, top))
        top += cell + _GAP
    write_image(path, np.asarray(sheet))
