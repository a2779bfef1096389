"""Measure frames per second of `model.stream` against a hand-written loop: Coral's MobileNetV2 int8, with resizing.

Both sides do the same work, resizing and normalising included, each with one thread per engine, in turns in one
process.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import edgekit_runtime
from benchmarks.harness import figures, real_data
from benchmarks.runtime.bundle import interpreter, write_bundle_of
from edgekit_runtime.format.manifest import Preprocessing

MODEL = "coral/models/mobilenet_v2_1.0_224_quant.tflite"
FRAMES, ROUNDS = 60, 10
HEIGHT, WIDTH = 480, 640  # of a camera


def main() -> None:
    """Print frames per second of both, and the ratio."""
    path = real_data.folder(__doc__) / MODEL
    real_data.need(path)
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    steps = Preprocessing((224, 224), 1 / 127.5, (1.0,))
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "mobilenet.edgekit"
        write_bundle_of(path, bundle, interpreter(path), steps)
        with edgekit_runtime.load(bundle, threads=1) as model:
            rates = np.array([_rates(model, frames) for _ in range(ROUNDS)])  # (rounds, 2)
    figures.show("frames/s, one after the other", figures.with_spread(rates[:, 0]))
    figures.show("frames/s, stream", figures.with_spread(rates[:, 1]))
    ratios = rates[:, 1] / rates[:, 0]
    holds = bool(np.median(ratios) >= 1.3)
    figures.show("stream over the loop", f"{figures.with_spread(ratios)} x", ">= 1.3 x", holds=holds)


def _rates(model: Any, frames: np.ndarray) -> tuple[float, float]:
    start = time.perf_counter()
    one_by_one = [model(frame, raw=True) for frame in frames]
    middle = time.perf_counter()
    streamed = list(model.stream(frames, raw=True))
    end = time.perf_counter()
    if not all(map(np.array_equal, one_by_one, streamed)):
        raise SystemExit("the two sides compute different things")
    return len(frames) / (middle - start), len(frames) / (end - middle)


if __name__ == "__main__":
    main()
