"""Measure `edgekit prune --prune-to latency=R` on ResNet-8 (Keras) and ResNet-20 (PyTorch).

Fine-tuned on the 20,000 JPEG copies of training images. These are other data than the published models were trained on,
so the dense models are also trained for as long on the same data, for comparison.
"""

from __future__ import annotations

import io
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import MODELS, edgekit

MOST_MINUTES = 25  # of training
GOALS = {0.5: 0.010, 0.7: 0.003}  # part of the dense model's int8 latency: accuracy that may be lost
RECIPE = ("--augment", "flip", "--augment", "shift", "--batch-size", "128")
NET = MODELS / "resnet20.py"
NORMAL = ("--scale", "0.00392156862745098", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
MODELS = {  # name: (model, how it is opened, how it is trained, file it is written as)
    "ResNet-8": (
        "mlperf_tiny/image_classification/pretrainedResnet.h5",
        (),
        ("--epochs", "100", "--learning-rate", "0.005", "--distillation-weight", "0.5"),
        "keras",
    ),
    "ResNet-20": (
        f"{NET}:resnet20",
        ("--weights", "pytorch_resnet20/resnet20-12fca82f.th", "--input-shape", "1,3,32,32", *NORMAL),
        ("--epochs", "15", "--learning-rate", "0.003"),
        "pt2",
    ),
}


def main() -> None:
    """Print a line for each model and goal."""
    data = real_data.folder(__doc__)
    real_data.need(data / "cifar10/train_jpeg.npz", data / "cifar10/test.npz", data / "mlperf_tiny")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        training_images(data, work / "train.npz")
        for name in MODELS:
            _measure(name, data, work)


def training_images(data: Path, path: Path) -> None:
    """Write the training images, decoded, as x (images, 32, 32, 3) uint8 and y."""
    from PIL import Image

    with np.load(data / "cifar10/train_jpeg.npz") as stored:
        bytes_, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["labels"]
    pixels = [np.asarray(Image.open(io.BytesIO(bytes_[start:end])).convert("RGB")) for start, end in pairwise(offsets)]
    np.savez(path, x=np.stack(pixels), y=labels[: len(pixels)])


def _measure(name: str, data: Path, work: Path) -> None:
    model, opening, training, suffix = MODELS[name]
    common = ("--train", str(work / "train.npz"), "--evaluate", "cifar10/test.npz", *RECIPE, *training)
    environment = {"EDGEKIT_CACHE": str(work / "cache")}

    def run(verb: str, *arguments: str) -> dict[str, Any]:
        flags = (*arguments, *opening, *common, "-o", str(work / f"made.{suffix}"), "--json", "--quiet")
        report: dict[str, Any] = json.loads(edgekit(verb, *flags, folder=data, **environment))
        return report

    for left, allowed in GOALS.items():
        report = run("prune", model, "--prune-to", f"latency={left}", "--calibrate", "cifar10/calibration.npz")
        _show(name, report, left, allowed)
    teacher = ("--teacher-weights", opening[1]) if opening else ()
    trained = run("distill", "--teacher", model, "--student", model, *teacher)["evaluated"]
    figures.show(f"{name}, dense, trained as long on the same data", f"{100 * trained['after']:.2f} %")


def _show(name: str, report: dict[str, Any], left: float, allowed: float) -> None:
    models = {(one["model"], one["scheme"]): one for one in report["pruning"]["models"]}
    dense, pruned = models["dense", "int8-static"], models["pruned", "int8-static"]
    part = pruned["latency_ms"]["p50"] / dense["latency_ms"]["p50"]
    drop = report["pruning"]["dense"] - pruned["value"]
    minutes = sum(one["seconds"] for one in report["stages"] if one["stage"] in ("teacher_outputs", "train")) / 60
    figures.show(
        f"{name} to {left:g} x latency: measured, int8",
        f"{part:.3f} ({pruned['macs'] / dense['macs']:.2f} of MACs)",
        f"<= {left:g}",
        holds=part <= left,
    )
    figures.show(
        f"{name} to {left:g} x latency: accuracy, dense",
        f"{100 * pruned['value']:.2f} %, {100 * report['pruning']['dense']:.2f} %",
        f"{-100 * allowed:+.1f} points",
        holds=drop <= allowed,
    )
    figures.show(f"{name}: training", f"{minutes:.1f} min", f"<= {MOST_MINUTES} min", holds=minutes <= MOST_MINUTES)


if __name__ == "__main__":
    main()
