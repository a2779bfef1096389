"""All benchmarks: everything edgekit promises to reach, measured here and now against the bare toolchains.

Ends with 0 when all was measured, whether or not the targets hold; each line says so itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SECTIONS = {
    "accuracy": "accuracy.py",
    "tiny": "tiny.py",
    "detector": "detector.py",
    "mobilenet_v3": "mobilenet_v3.py",
    "race": "race.py",
    "evaluate_parts": "evaluate_parts.py",
    "convert_time": "convert_time.py",
    "convert_memory": "convert_memory.py",
    "sensitivity": "sensitivity.py",
    "importance": "prune_importance.py",
    "prune_step": "prune_step.py",
    "prune_resnet": "prune_resnet.py",
    "prune_text": "prune_text.py",
    "runtime": "runtime_cost.py",
    "call": "runtime_call.py",
    "queue": "runtime_queue.py",
    "preprocess": "runtime_preprocess.py",
    "stream": "runtime_stream.py",
    "cold": "runtime_cold.py",
    "delta": "delta.py",
    "verify_signed": "verify_signed.py",
}


def main() -> None:
    """Run the chosen sections, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; repeatable")
    parser.add_argument("--data", help="real models and data  [default: $EDGEKIT_DATA, else ../shared/data]")
    chosen = parser.parse_args()
    environment = os.environ | ({"EDGEKIT_DATA": chosen.data} if chosen.data else {})
    missing = []
    for name in chosen.only or SECTIONS:
        print(name, flush=True)
        if subprocess.call([sys.executable, str(HERE / SECTIONS[name])], env=environment) != 0:
            missing.append(name)
    if missing:
        raise SystemExit(f"not measured: {', '.join(missing)}")


if __name__ == "__main__":
    main()
