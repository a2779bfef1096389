"""Quantize a MobileNetV3-small whose channels are scaled 1000:1 apart: with the toolchains' defaults, and by `auto`.

Trained on CIFAR-10 the first time, in a few minutes, and cached in `build/bench`. Calibrated on the 500 calibration
images and evaluated on all 10,000 test images. The toolchains use their defaults (`plain_int8.py`). By size, `auto`
must find equalized channels; by latency, its selection is timed again (`candidate_search.py`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np

from benchmarks.conversion.candidate_search import BOTH, show_turns
from benchmarks.conversion.plain_int8 import ir_of, run_ir, run_tflite, tflite_of_saved_model
from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import CIFAR10, Conversion, convert
from benchmarks.models import mobilenet_v3

MODEL = Path(__file__).parents[2] / "build/bench/mobilenet_v3.keras"
LEAST_LOSS_POINTS = 5.0  # of the plain toolchains, so that there is something to win back
MOST_DROP_POINTS = 1.0
INTEGER = "int"  # how the names of all integer schemes begin


def main() -> None:
    """Print the accuracy of the float model, of both default int8 models and of the selection by size."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / "cifar10" / name for name in ("train_jpeg.npz", "calibration.npz", "test.npz")))
    model = keras.models.load_model(mobilenet_v3.trained(data, MODEL))
    calibration = np.load(data / "cifar10/calibration.npz")["x"].astype(np.float32)  # (500, 32, 32, 3)
    test = np.load(data / "cifar10/test.npz")
    x, y = test["x"].astype(np.float32), test["y"]  # (10000, 32, 32, 3), (10000,)
    accuracy = float(np.mean(model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y))
    figures.show("MobileNetV3, float32 Keras", f"{100 * accuracy:.2f} % of {len(y)}")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        plain = {
            "TFLiteConverter": run_tflite(tflite_of_saved_model(Path(folder), calibration), x),
            "NNCF": run_ir(ir_of(folder, calibration), x),
        }
    for name, outputs in plain.items():
        found = float(np.mean(outputs.argmax(axis=1) == y))
        drop = 100 * (accuracy - found)
        figures.show(
            f"MobileNetV3, plain int8 of {name}",
            f"{100 * found:.2f} %, drop {drop:+.2f}",
            f">= {LEAST_LOSS_POINTS:g} points",
            holds=drop >= LEAST_LOSS_POINTS,
        )
    with tempfile.TemporaryDirectory() as folder:
        _show_searches(data, Path(folder))


def _show_searches(data: Path, work: Path) -> None:
    flags, limit = (str(MODEL.resolve()), *CIFAR10), MOST_DROP_POINTS / 100
    search = (*flags, *BOTH, "-q", "auto", "--max-drop", str(limit))
    _show_selection(convert(data, work, *search, "--objective", "size"))
    show_turns("MobileNetV3", convert(data, work, *search), data, work, flags, limit)


def _show_selection(conversion: Conversion) -> None:
    for choice in conversion.report["choices"]:
        figures.show(f"MobileNetV3, by size, {choice.partition(': it ')[0]}", "")
    for variant in conversion.report["variants"]:
        drop = 100 * variant["drop"]
        figures.show(
            f"MobileNetV3, {variant['name']}",
            f"{100 * variant['accuracy']:.2f} %, drop {drop:+.2f}",
            f"<= {MOST_DROP_POINTS:g} points, {INTEGER}",
            holds=drop <= MOST_DROP_POINTS and variant["scheme"].startswith(INTEGER),
        )


if __name__ == "__main__":
    main()
