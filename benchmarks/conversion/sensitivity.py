"""Time the layer sensitivity of ResNet-20, against one calibration of it, both in one run.

Both are stages of one `edgekit sensitivity` of the PyTorch model with an empty cache: "quantize" calibrates on all 500
images, "sensitivity" compares the layers.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

from benchmarks.conversion.accuracy import RESNET20
from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import edgekit

MODEL = RESNET20[: RESNET20.index("--evaluate")]
MOST_SECONDS = 10  # beside two calibrations
WORST = 3  # layers to name


def main() -> None:
    """Print the times of both stages for each format, and the most sensitive layers."""
    data = real_data.folder(__doc__)
    real_data.need(data / RESNET20[2], data / "cifar10/calibration.npz")
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        report = json.loads(edgekit("sensitivity", *MODEL, "--json", folder=data, EDGEKIT_CACHE=cache))
        wall_seconds = time.perf_counter() - started
    for engine in report["whole"]:
        calibration, sensing = (_seconds(report, stage, engine) for stage in ("quantize", "sensitivity"))
        limit = 2 * calibration + MOST_SECONDS
        figures.show(f"ResNet-20 {engine}, one calibration", f"{calibration:.1f} s")
        figures.show(
            f"ResNet-20 {engine}, all layers compared", f"{sensing:.1f} s", f"<= {limit:.1f} s", holds=sensing <= limit
        )
        alone = {row["layer"]: row["figures"][engine]["alone_db"] for row in report["rows"] if engine in row["figures"]}
        names = sorted(alone, key=lambda name: alone[name])[:WORST]
        figures.show(f"ResNet-20 {engine}, worst layers", ", ".join(names))
    figures.show("the whole command, PyTorch model to both tables", f"{wall_seconds:.1f} s")


def _seconds(report: dict[str, Any], stage: str, engine: str) -> float:
    """Return the seconds of a stage of one engine."""
    return sum(
        one["seconds"] for one in report["stages"] if one["stage"] == stage and one["subject"].startswith(engine)
    )


if __name__ == "__main__":
    main()
