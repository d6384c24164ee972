"""Training: settings, the loop as a generator, and exact resume.

A step's randomness is a function of the seed and the step's number alone, and the schedule is a
function of the step; so weights, moving average, optimiser and step number are the whole state.
"""

from napari_dmgn.training.events import Comparison, TrainEvent
from napari_dmgn.training.gathering import check_data
from napari_dmgn.training.loop import iter_train, train
from napari_dmgn.training.run import Timing
from napari_dmgn.training.settings import TrainConfig

__all__ = ["Comparison", "Timing", "TrainConfig", "TrainEvent", "check_data", "iter_train", "train"]
