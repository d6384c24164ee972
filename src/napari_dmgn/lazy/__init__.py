"""Images larger than one memory or one machine: Dask arrays, and OME-Zarr stores that are done window by window."""

from napari_dmgn.lazy.arrays import restore_lazy
from napari_dmgn.lazy.cluster import Cluster
from napari_dmgn.lazy.destination import Destination
from napari_dmgn.lazy.here import Here
from napari_dmgn.lazy.lock import BusyError
from napari_dmgn.lazy.overlap import overlapped
from napari_dmgn.lazy.record import UnfinishedError
from napari_dmgn.lazy.run import StoreRun
from napari_dmgn.lazy.stores import Input

__all__ = [
    "BusyError",
    "Cluster",
    "Destination",
    "Here",
    "Input",
    "StoreRun",
    "UnfinishedError",
    "overlapped",
    "restore_lazy",
]
