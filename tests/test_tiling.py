"""Windows cover every pixel once, lie on the grid, and read as far as they are told."""

from itertools import pairwise, product

import numpy as np
import pytest

from napari_dmgn.tiling import halved, spans, widened, windows

STRIDES = (1, 2, 3, 8)


def cases():
    for stride in STRIDES:
        for length, tile in product(range(1, 13), repeat=2):
            for halo in range(2 * stride + 2):
                yield length * stride, tile * stride, halo, stride


def test_tiles_partition_the_axis():
    for length, tile, halo, stride in cases():
        cut = spans(length, tile=tile, halo=halo, stride=stride)
        assert cut[0].paste[0] == 0
        assert cut[-1].paste[1] == length
        assert all(a.paste[1] == b.paste[0] for a, b in pairwise(cut))
        sizes = [b - a for a, b in (s.paste for s in cut)]
        assert 0 < min(sizes) <= max(sizes) <= tile
        # As few and as equal as can be.
        assert len(cut) == -(-length // tile)
        assert max(sizes) - min(sizes) <= stride


def test_windows_lie_on_the_grid_and_read_the_halo():
    for length, tile, halo, stride in cases():
        for span in spans(length, tile=tile, halo=halo, stride=stride):
            (start, stop), (first, last) = span.read, span.paste
            assert all(edge % stride == 0 for edge in (start, stop, first, last))
            assert 0 <= start <= first < last <= stop <= length
            # The whole halo, unless the image ends before; and less than a stride more.
            assert start == 0 or halo <= first - start < halo + stride
            assert stop == length or halo <= stop - last < halo + stride
            assert span.keep == (first - start, last - start)


def test_kept_parts_pasted_rebuild_the_image():
    random = np.random.default_rng(0)
    for size in product((8, 24, 40), repeat=2):
        image = random.random(size)
        for tile in product((8, 16, 48), repeat=2):
            for halo in (0, 5, 8, 100):
                pasted, count = np.full(size, np.nan), np.zeros(size, int)
                for window in windows(size, tile=tile, halo=halo, stride=8):
                    read = image[slice(*window.rows.read), slice(*window.columns.read)]
                    target = slice(*window.rows.paste), slice(*window.columns.paste)
                    pasted[target] = read[slice(*window.rows.keep), slice(*window.columns.keep)]
                    count[target] += 1
                assert (count == 1).all()
                assert np.array_equal(pasted, image)


def test_halves_cover_their_window_and_widening_gives_any_halo():
    for size in product((8, 24, 40), repeat=2):
        for window in windows(size, tile=(24, 24), halo=16, stride=8):
            halves = list(halved(window, size=size, halo=16, stride=8))
            covered = np.zeros(size, int)
            for half in halves:
                covered[slice(*half.rows.paste), slice(*half.columns.paste)] += 1
                assert half == widened(widened(half, size=size, halo=0, stride=8), size=size, halo=16, stride=8)
            own = np.zeros(size, int)
            own[slice(*window.rows.paste), slice(*window.columns.paste)] = 1
            assert np.array_equal(covered, own)
            large = [b - a > 8 for a, b in (window.rows.paste, window.columns.paste)]
            assert len(halves) == 2 ** sum(large)


def test_windows_come_row_by_row():
    order = [(w.rows.paste[0], w.columns.paste[0]) for w in windows((24, 40), tile=(8, 16), halo=8, stride=8)]
    assert order == sorted(order)
    assert len(order) == 3 * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 0},
        {"length": -8},
        {"length": 12},
        {"tile": 0},
        {"tile": -8},
        {"tile": 4},
        {"tile": 12},
        {"halo": -1},
    ],
)
def test_wrong_numbers_are_refused(wrong):
    values = {"length": 32, "tile": 16, "halo": 8, "stride": 8, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} {next(iter(wrong.values()))}.*wanted"):
        spans(values.pop("length"), **values)
