"""The matrices against torch's own enlargement, padding and slicing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_dmgn.model.bilinear import bands, samples_read, shift_matrix


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize(("small", "large"), [(1, 16), (2, 37), (8, 16), (9, 37), (18, 37), (32, 64)])
def test_matrix_enlarges_and_shifts(padding, small, large):
    samples = torch.eye(small, dtype=torch.float64)[None]  # (1, unit, place)
    enlarged = F.interpolate(samples[None], size=(small, large), mode="bilinear", align_corners=False)[0]
    padded = F.pad(enlarged, (1, 1), mode="constant" if padding == "zeros" else padding)[0]
    shifts = torch.stack([padded[:, s : s + large] for s in range(3)]).permute(2, 1, 0).numpy()  # place, sample, shift
    for start, stop in [*bands(large, 5), (0, large)]:
        matrix, first = shift_matrix(start, stop, small, large, padding)
        last = first + matrix.shape[1] // 3
        assert (first, last) == samples_read(start, stop, small, large, padding)
        whole = np.zeros((stop - start, small, 3))
        whole[:, first:last] = matrix.reshape(stop - start, -1, 3)
        np.testing.assert_allclose(whole, shifts[start:stop], atol=1e-12)


def test_bands_cover_every_position_once():
    for length in range(1, 20):
        for size in range(1, 22):
            cut = bands(length, size)
            assert [i for start, stop in cut for i in range(start, stop)] == list(range(length))
            assert all(0 < stop - start <= size for start, stop in cut)
