"""Prune a small BERT-like encoder with `edgekit prune`: half of its heads and feed-forward width, in int8.

`models/text_encoder.py` makes and trains the encoder, with BERT-mini's sizes, and its texts: the topic of a question
can be told only with attention. The residual stream is normalized over all channels, so its width is not pruned.
LayerNorms stay in float in int8-static by the default remedies, because their
integer kernels would take half of the time and pruning does not shrink them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, edgekit, script

NET = MODELS / "text_encoder.py"
LEAST_SPEED, MOST_LOSS = 1.6, 0.01
INT8 = ("int8-dynamic", "int8-static")


def main() -> None:
    """Print what is left, the speedup, and the loss of accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        accuracy = float(script("models.text_encoder", str(work)).splitlines()[-1])
        figures.show("encoder of 4 layers, accuracy", f"{100 * accuracy:.2f} %")
        opened = (f"{NET}:encoder", "--weights", "encoder.pth", "--input-shape", "1,16:int64")
        flags = ("--prune", "0.5", "--per-layer", "--calibrate", "calibration.npz")
        trained = ("--train", "train.npz", "--epochs", "2", "--learning-rate", "0.0003", "--evaluate", "test.npz")
        trained += tuple(word for scheme in INT8 for word in ("-q", scheme))
        written = ("-o", "small.pt2", "--json", "--quiet")
        report = json.loads(
            edgekit("prune", *opened, *flags, *trained, *written, folder=work, EDGEKIT_CACHE=str(work / "cache"))
        )
    for group in report["pruning"]["groups"]:
        if group["left"] < group["width"]:
            figures.show(f"{group['name']}: {group['kind']}", f"{group['left']} of {group['width']}")
    models = {(one["model"], one["scheme"]): one for one in report["pruning"]["models"]}
    float_value = report["pruning"]["dense"]
    for scheme in INT8:
        dense, pruned = models["dense", scheme], models["pruned", scheme]
        faster = dense["latency_ms"]["p50"] / pruned["latency_ms"]["p50"]
        figures.show(
            f"{scheme}: a call of the dense one, faster by",
            f"{dense['latency_ms']['p50']:.3f} ms, {faster:.2f}",
            f">= {LEAST_SPEED}",
            holds=faster >= LEAST_SPEED,
        )
        figures.show(
            f"{scheme}: pruned, dense float: accuracy",
            f"{100 * pruned['value']:.2f} %, {100 * float_value:.2f} %",
            f"-{100 * MOST_LOSS:g} point",
            holds=float_value - pruned["value"] <= MOST_LOSS,
        )


if __name__ == "__main__":
    main()
