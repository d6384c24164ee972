"""A thousand steps of the recipe "paper" at small size: do all three losses stay finite?

    python benchmarks/paper_recipe.py [--steps 1000] [--forms critic hinge unbounded]

Trains a small network on crops of scikit-image's photographs with L1, perceptual and adversarial loss,
for each form of the discriminator: "critic" (Eq. 13-14 under spectral normalisation), "hinge", and
"unbounded" (Eq. 13-14 as they stand). The features are a small network of fixed random weights; a file
of VGG-19 or of a distillation is taken with --features. Exit status 1 if a loss of "critic" or "hinge"
was not finite.
"""

import argparse
import math
import sys
import tempfile
import time

import torch
from skimage import data

from napari_dmgn.perceptual import DistilledFeatures
from napari_dmgn.training import TrainConfig, iter_train

FORMS = {
    "critic": {"adversarial": "critic"},
    "hinge": {"adversarial": "hinge"},
    "unbounded": {"adversarial": "critic", "spectral_norm": False},
}
NETWORK = {"trunk_stride": 2, "width": 16, "head_levels": 2, "branch_widths": [16, 24], "bottleneck_cells": 1,
           "refine_dilations": [1, 2]}  # fmt: skip


def random_features():
    """Features of the distillation's shape, an eighth as wide, with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DistilledFeatures(widths=(2, 4, 8, 16, 16))


def main():
    """Train with each form and print the ranges of its losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--features", help="features file, in place of random features")
    args = parser.parse_args()
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    failed = False
    for form in args.forms:
        began, terms, scores = time.monotonic(), {}, {}
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                recipe="paper",
                features=args.features,
                network=NETWORK,
                phases=[[1.0, args.crop, 4]],
                steps=args.steps,
                learning_rate=2e-4,
                weight_decay=0.0,
                ema=0.99,
                discriminator_width=8,
                degradation={"light": 1, "heavy": 1},
                validation_pictures=1,
                validation_crop=128,
                validate_every=args.steps,
                run=folder,
                device="cpu",
                **FORMS[form],
            )
            try:
                features = None if args.features else random_features()
                for event in iter_train(config, arrays=pictures, features=features):
                    for name, value in event.terms.items():
                        terms.setdefault(name, []).append(value)
                    scores = event.validation or scores
            except FloatingPointError as error:
                print(f"{form}: {error}")
                failed |= form != "unbounded"
        print(f"{form}: {len(terms['background'])} steps in {time.monotonic() - began:.0f} s, {scores}")
        for name, values in terms.items():
            tenth = max(1, len(values) // 10)
            first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
            finite = all(map(math.isfinite, values))
            failed |= not finite
            print(
                f"  {name:18s} first tenth {first:+.5f}  last tenth {last:+.5f}  "
                f"range {min(values):+.5f} to {max(values):+.5f}{'' if finite else '  NOT FINITE'}"
            )
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
