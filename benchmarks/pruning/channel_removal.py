"""Time the pruning of a MobileNetV2, without training: half of all channels, by l2 norm, Keras and PyTorch.

All stages from the file to the smaller file count, each with its part of reading the model. The toolchains' imports and
the final comparison in the engines do not count.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, edgekit, script

MOST_SECONDS = 30
STAGES = ("load", "analyze", "score", "cut_channels", "save")
NET = MODELS / "mobilenet_v2_torch.py"


def main() -> None:
    """Print the seconds, and the parameters and MACs left."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        script("models.save_mobilenet_v2", str(work / "net.keras"))
        for name, arguments in {
            "Keras": (str(work / "net.keras"), "-o", str(work / "small.keras")),
            "PyTorch": (f"{NET}:mobilenet_v2", "--input-shape", "1,3,224,224", "-o", str(work / "small.pt2")),
        }.items():
            flags = ("--prune", "0.5", "--importance", "l2", "--json", "--quiet")
            report = json.loads(edgekit("prune", *arguments, *flags, EDGEKIT_CACHE=str(work / "cache")))
            seconds = sum(one["seconds"] for one in report["stages"] if one["stage"] in STAGES)
            dense, pruned = (
                next(m for m in report["pruning"]["models"] if m["model"] == x) for x in ("dense", "pruned")
            )
            left = f"{pruned['parameters'] / dense['parameters']:.2f}, {pruned['macs'] / dense['macs']:.2f}"
            figures.show(f"MobileNetV2, {name}: parameters, MACs left", left)
            figures.show(
                f"MobileNetV2, {name}: the pruning itself",
                f"{seconds:.1f} s",
                f"<= {MOST_SECONDS} s",
                holds=seconds <= MOST_SECONDS,
            )


if __name__ == "__main__":
    main()
