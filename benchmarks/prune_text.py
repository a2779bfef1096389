"""`edgekit prune` of a small encoder as BERT's: half of its heads and of its feed-forward width, in int8.

The encoder, of BERT-mini's sizes, and its texts are made here, by `text_encoder.py`: which of six topics a question is
about takes attention to tell. The stream between the layers is normalized over all of its channels, and is left whole.
What int8 is for such a model is int8-dynamic: int8-static takes more than twice as long in LiteRT, whose integer
kernels for the parts of a LayerNorm are slow, and pruning leaves those as they are.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import figures
from commands import edgekit, script

NET = Path(__file__).parent / "text_encoder.py"
LEAST_SPEED, MOST_LOSS = 1.6, 0.01
INT8 = "int8-dynamic"


def main() -> None:
    """Print what was left, how much faster it is, and what that cost."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        accuracy = float(script(NET.name, str(work)).splitlines()[-1])
        figures.show("encoder of 4 layers, accuracy", f"{100 * accuracy:.2f} %")
        opened = (f"{NET}:encoder", "--weights", "encoder.pth", "--input-shape", "1,16:int64")
        asked = ("--prune", "0.5", "--per-layer", "--calibrate", "calibration.npz")
        trained = ("--train", "train.npz", "--epochs", "2", "--learning-rate", "0.0003", "--evaluate", "test.npz")
        trained += ("-q", "int8-dynamic", "-q", "int8-static")
        written = ("-o", "small.pt2", "--json", "--quiet")
        told = json.loads(
            edgekit("prune", *opened, *asked, *trained, *written, folder=work, EDGEKIT_CACHE=str(work / "cache"))
        )
    for group in told["pruning"]["groups"]:
        if group["left"] < group["width"]:
            figures.show(f"{group['name']}: {group['kind']}", f"{group['left']} of {group['width']}")
    models = {(one["model"], one["scheme"]): one for one in told["pruning"]["models"]}
    faster = {
        scheme: models["dense", scheme]["latency_ms"]["p50"] / models["pruned", scheme]["latency_ms"]["p50"]
        for scheme in (INT8, "int8-static")
    }
    pruned = models["pruned", INT8]
    lost = told["pruning"]["dense"] - pruned["value"]
    figures.show(f"{INT8}: faster by", f"{faster[INT8]:.2f}", f">= {LEAST_SPEED}", holds=faster[INT8] >= LEAST_SPEED)
    figures.show("int8-static: faster by", f"{faster['int8-static']:.2f}")
    figures.show(
        f"a call of the dense one, {INT8}, int8-static",
        ", ".join(f"{models['dense', scheme]['latency_ms']['p50']:.3f} ms" for scheme in (INT8, "int8-static")),
    )
    figures.show(
        f"{INT8} pruned, dense float: accuracy",
        f"{100 * pruned['value']:.2f} %, {100 * told['pruning']['dense']:.2f} %",
        f"-{100 * MOST_LOSS:g} point",
        holds=lost <= MOST_LOSS,
    )


if __name__ == "__main__":
    main()
