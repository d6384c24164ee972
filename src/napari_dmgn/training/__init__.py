"""Training: settings, the loop as a generator, and exact resume.

A step's randomness is a function of the seed and the step's number alone, and the schedule is a
function of the step; so weights, moving average, optimiser and step number are the whole state.
"""

from napari_dmgn.training.loop import TrainEvent, iter_train, train
from napari_dmgn.training.settings import TrainConfig

__all__ = ["TrainConfig", "TrainEvent", "iter_train", "train"]
