"""Run the benchmarks: edgekit against the bare toolchains, both sides measured in the same run.

The exit code is 0 when every section was measured, also when a target does not hold; each line says whether it holds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "accuracy": "conversion.accuracy",
    "tiny": "conversion.mlperf_tiny",
    "detector": "conversion.detector",
    "mobilenet_v3": "conversion.mobilenet_v3",
    "race": "conversion.candidate_search",
    "evaluate_parts": "conversion.parallel_evaluation",
    "convert_time": "conversion.convert_time",
    "convert_memory": "conversion.convert_memory",
    "sensitivity": "conversion.sensitivity",
    "importance": "pruning.importance",
    "prune_step": "pruning.channel_removal",
    "prune_resnet": "pruning.resnet",
    "prune_text": "pruning.text_encoder",
    "dependency_graph": "pruning.dependency_graph",
    "fake_quantization": "training.fake_quantization",
    "resume": "training.resume",
    "runtime": "runtime.import_cost",
    "standard_library": "runtime.standard_library",
    "call": "runtime.call_latency",
    "queue": "runtime.async_queue",
    "preprocess": "runtime.preprocessing",
    "stream": "runtime.streaming",
    "cold": "runtime.cold_start",
    "delta": "runtime.delta_update",
    "verify_signed": "runtime.verify_signature",
}


def main() -> None:
    """Run the selected sections one after the other, each as a module in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; repeatable")
    parser.add_argument("--data", help="real models and data  [default: $EDGEKIT_DATA, else ../shared/data]")
    options = parser.parse_args()
    data = options.data or os.environ.get("EDGEKIT_DATA")  # resolved, since a section runs in the repository's root
    environment = os.environ | ({"EDGEKIT_DATA": str(Path(data).resolve())} if data else {})
    missing = []
    for name in options.only or SECTIONS:
        print(name, flush=True)
        if subprocess.call([sys.executable, "-m", f"benchmarks.{SECTIONS[name]}"], cwd=ROOT, env=environment) != 0:
            missing.append(name)
    if missing:
        raise SystemExit(f"not measured: {', '.join(missing)}")


if __name__ == "__main__":
    main()
