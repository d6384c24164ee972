"""Training data: pictures and pairs found, decoded once, and drawn at random.

`collect` reads what `SourceSpec`s name and tells in a `DataReport` what it made of it; a `Source` draws
batches of (input, background, noise) from a `PicturePool`.
"""

from napari_dmgn.data.collection import Collection, Held, collect, hold_out_rank
from napari_dmgn.data.matching import Matching, match_pairs
from napari_dmgn.data.pictures import Picture, array_pictures, depth_maps, find_pictures, pair_pictures, read_pictures
from napari_dmgn.data.pool import PicturePool
from napari_dmgn.data.report import DataReport, SourceReport
from napari_dmgn.data.sources import Batches, Crops, Extras, Source, noise_of_pair
from napari_dmgn.data.specs import SourceSpec

__all__ = [
    "Batches",
    "Collection",
    "Crops",
    "DataReport",
    "Extras",
    "Held",
    "Matching",
    "Picture",
    "PicturePool",
    "Source",
    "SourceReport",
    "SourceSpec",
    "array_pictures",
    "collect",
    "depth_maps",
    "find_pictures",
    "hold_out_rank",
    "match_pairs",
    "noise_of_pair",
    "pair_pictures",
    "read_pictures",
]
