"""Scores of models on pairs of pictures with and without noise: tables a picture, a set, a model."""

from napari_dmgn.evaluation.benchmarks import BENCHMARKS
from napari_dmgn.evaluation.layouts import Benchmark
from napari_dmgn.evaluation.methods import Method, method_of_model
from napari_dmgn.evaluation.report import Evaluation, Excluded, Mean, Score
from napari_dmgn.evaluation.run import EvaluationEvent, evaluate, iter_evaluate
from napari_dmgn.evaluation.sets import (
    Item,
    PairSet,
    benchmark_set,
    clean_set,
    folder_set,
    told_apart,
)
from napari_dmgn.evaluation.synthetic import synthetic_set

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Evaluation",
    "EvaluationEvent",
    "Excluded",
    "Item",
    "Mean",
    "Method",
    "PairSet",
    "Score",
    "benchmark_set",
    "clean_set",
    "evaluate",
    "folder_set",
    "iter_evaluate",
    "method_of_model",
    "synthetic_set",
    "told_apart",
]
