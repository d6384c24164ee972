"""User array to (N, 3, H, W) float32 planes in [0, 1] and back; NumPy only.

`read_layout` names the axes, `find_ranges` fixes the intensity range of a volume, `read_frame`
makes planes of one frame, and `Results` collects what the network answers.
"""

from napari_dmgn.images.frames import FloatArray, Frame, Results, read_frame
from napari_dmgn.images.intensity import IntensityRange, check_range, find_ranges, saturate
from napari_dmgn.images.layout import Array, Layout, check_image, guess_rgb, read_layout

__all__ = [
    "Array",
    "FloatArray",
    "Frame",
    "IntensityRange",
    "Layout",
    "Results",
    "check_image",
    "check_range",
    "find_ranges",
    "guess_rgb",
    "read_frame",
    "read_layout",
    "saturate",
]
