"""Measure a detector in int8 (boxes and scores in one output, distances as expectations), with fixes and without.

The model is built and trained here (`models/detector.py`, about a minute) and cached in build/bench. Calibrated on 200
scenes, evaluated on 600 others.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, convert

CACHE = MODELS.parents[1] / "build/bench"
MODEL = MODELS / "detector.py"
STEPS = 400
MOST_DROP_POINTS = 1.0


def main() -> None:
    """Print mean average precision of the source and of every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    weights = CACHE / f"detector-{STEPS}.weights.h5"
    if not weights.exists():
        _train(weights)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = _save_scenes(work)
        for fixes, options in (("with fixes", ()), ("without", ("--no-auto-fix",))):
            flags = (f"{MODEL}:detector", "--weights", str(weights), "-q", "int8-static", *data, *options)
            report = convert(work, work, *flags).report
            if fixes == "with fixes":
                figures.show(
                    "detector, float", f"{100 * report['source']['value']:.2f} mAP of {report['source']['samples']}"
                )
            for variant in report["variants"]:
                points = 100 * variant["drop"]
                figures.show(
                    f"{variant['name']} {fixes}",
                    f"{100 * variant['value']:.2f}, drop {points:+.2f}",
                    f"<= {MOST_DROP_POINTS:g} points" if not options else "",
                    holds=None if options else points <= MOST_DROP_POINTS,
                )


def _train(weights: Path) -> None:
    from benchmarks.models.detector import trained  # TensorFlow is imported for this alone

    temporary = weights.with_name(f"new-{weights.name}")
    trained(STEPS).save_weights(temporary)
    temporary.replace(weights)


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
