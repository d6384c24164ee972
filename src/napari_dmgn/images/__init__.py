"""User array to (N, 3, H, W) float32 planes in [0, 1] and back; NumPy only.

`read_layout` names the axes, `find_ranges` fixes the intensity range of a volume, `Picture` makes
planes of a frame part by part, and `Results` collects what the network answers.
"""

from napari_dmgn.images.frames import FloatArray, Frame, Picture, read_frame
from napari_dmgn.images.intensity import IntensityRange, check_range, find_ranges, saturate, unit_to_dtype
from napari_dmgn.images.layout import Array, Layout, check_image, guess_rgb, read_layout
from napari_dmgn.images.results import OUTPUTS, Results, output_arrays

__all__ = [
    "OUTPUTS",
    "Array",
    "FloatArray",
    "Frame",
    "IntensityRange",
    "Layout",
    "Picture",
    "Results",
    "check_image",
    "check_range",
    "find_ranges",
    "guess_rgb",
    "output_arrays",
    "read_frame",
    "read_layout",
    "saturate",
    "unit_to_dtype",
]
