"""What int8 costs a detector (boxes in pixels beside scores, distances as expectations), with remedies and without.

The model is made and trained here (`models/detector.py`, about a minute) and kept in build/bench. Calibrated on 200
scenes, measured on 600 others.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, convert

KEPT = MODELS.parents[1] / "build/bench"
MODEL = MODELS / "detector.py"
STEPS = 400
MOST_DROP_POINTS = 1.0


def main() -> None:
    """Print mean average precision of the source and of every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    weights = KEPT / f"detector-{STEPS}.weights.h5"
    if not weights.exists():
        _train(weights)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = _save_scenes(work)
        for remedies, options in (("with remedies", ()), ("without", ("--no-auto-fix",))):
            asked = (f"{MODEL}:detector", "--weights", str(weights), "-q", "int8-static", *data, *options)
            report = convert(work, work, *asked).report
            if remedies == "with remedies":
                figures.show(
                    "detector, float", f"{100 * report['source']['value']:.2f} mAP of {report['source']['samples']}"
                )
            for variant in report["variants"]:
                points = 100 * variant["drop"]
                figures.show(
                    f"{variant['name']} {remedies}",
                    f"{100 * variant['value']:.2f}, drop {points:+.2f}",
                    f"<= {MOST_DROP_POINTS:g} points" if not options else "",
                    holds=None if options else points <= MOST_DROP_POINTS,
                )


def _train(weights: Path) -> None:
    from benchmarks.models.detector import trained  # TensorFlow is imported for this alone

    aside = weights.with_name(f"new-{weights.name}")
    trained(STEPS).save_weights(aside)
    aside.replace(weights)


def _save_scenes(folder: Path) -> tuple[str, ...]:
    """Write calibration and evaluation data; return the options that name them."""
    from benchmarks.models.detector import scenes

    calibration, (images, objects) = scenes(200, seed=2)[0], scenes(600, seed=1)
    np.save(folder / "calibration.npy", calibration)
    np.savez(folder / "test.npz", x=images, y=objects)
    named = ("--calibrate", folder / "calibration.npy", "--evaluate", folder / "test.npz")
    return (*map(str, named), "--metric", f"{MODEL}:mean_precision")


if __name__ == "__main__":
    main()
