"""Measure the accuracy of int8 ResNet-8 (Keras) and ResNet-20 (PyTorch), and compare with MLPerf Tiny's int8 ResNet-8.

Calibrated on all 500 CIFAR-10 calibration images and evaluated on all 10,000 test images, by `edgekit convert`.
"""

from __future__ import annotations

import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import CIFAR10, MODELS, RESNET8, convert

RESNET20 = (
    f"{MODELS / 'resnet20.py'}:resnet20",
    *("--weights", "pytorch_resnet20/resnet20-12fca82f.th", "--input-shape", "1,3,32,32"),
    *("--scale", str(1 / 255), "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
    *CIFAR10,
)
REFERENCE = "mlperf_tiny/image_classification/pretrainedResnet_quant.tflite"
MOST_DROP_POINTS = 0.3
ROUNDS, CALLS_A_ROUND = 200, 50


def main() -> None:
    """Print the drop of every variant, and the size and latency relative to the reference."""
    data = real_data.folder(__doc__)
    real_data.need(data / RESNET8[0], data / RESNET20[2], data / "cifar10/test.npz", data / REFERENCE)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "resnet8.tflite"
        for name, arguments in (("ResNet-8", RESNET8), ("ResNet-20", RESNET20)):
            conversion = convert(data, Path(folder), *arguments, "-q", "int8-static")
            _show_drops(name, conversion.report)
            if name == "ResNet-8":
                ours.write_bytes(zipfile.ZipFile(conversion.bundle).read("variants/litert-int8-static/model.tflite"))
        _compare(ours, data / REFERENCE)


def _show_drops(name: str, report: dict[str, Any]) -> None:
    source = report["source"]
    figures.show(f"{name} {source['framework']}", f"{100 * source['accuracy']:.2f} % of {source['samples']}")
    for variant in report["variants"]:
        drop_points = 100 * variant["drop"]
        figures.show(
            f"{name} {variant['name']}",
            f"{100 * variant['accuracy']:.2f} %, drop {drop_points:+.2f}",
            f"<= {MOST_DROP_POINTS} points",
            holds=round(drop_points, 6) <= MOST_DROP_POINTS,
        )


def _compare(ours: Path, reference: Path) -> None:
    size_percent = 100 * ours.stat().st_size / reference.stat().st_size
    figures.show_at_most("ResNet-8 int8 .tflite, size over MLPerf's", [size_percent], 105, " %")
    sides = [_Calls(reference), _Calls(ours)]
    times_us = np.array([[side.round_us() for side in sides] for _ in range(ROUNDS)])  # (rounds, 2)
    for name, column in zip(("MLPerf's int8 ResNet-8, a call", "our int8 ResNet-8, a call"), times_us.T, strict=True):
        figures.show(name, f"{figures.with_spread(column)} us")
    figures.show_at_most("ours over MLPerf's, round by round", times_us[:, 1] / times_us[:, 0], 1.05)


class _Calls:
    """Calls of a model in LiteRT's own interpreter, on one thread and random input."""

    def __init__(self, path: Path) -> None:
        self.interpreter = Interpreter(str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        (entrance,), (exit_,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        self.entrance, self.exit = entrance["index"], exit_["index"]
        noise = np.random.default_rng(0).integers(-128, 128, entrance["shape"])  # (1, 32, 32, 3)
        self.x = noise.astype(entrance["dtype"])

    def round_us(self) -> float:
        """Return the mean latency of a few calls, in microseconds."""
        started = time.perf_counter()
        for _ in range(CALLS_A_ROUND):
            self.interpreter.set_tensor(self.entrance, self.x)
            self.interpreter.invoke()
            self.interpreter.get_tensor(self.exit)
        return (time.perf_counter() - started) / CALLS_A_ROUND * 1e6


if __name__ == "__main__":
    main()
