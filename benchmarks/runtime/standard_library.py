"""What the runtime saves by not using ``dataclasses`` and ``hashlib`` at start: medians of many process starts.

Both sides start fresh processes in turns. In each process numpy is imported first and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

DEFINE = "import edgekit_runtime; edgekit_runtime.load"
# Puts dataclasses in the place of edgekit_runtime.record, before any record is defined.
STANDARD = """
import dataclasses, types
record = types.ModuleType("edgekit_runtime.record")
record.dataclass, record.field, record.replace = dataclasses.dataclass, dataclasses.field, dataclasses.replace
record.needed = lambda kind: {
    one.name for one in dataclasses.fields(kind)
    if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
}
sys.modules["edgekit_runtime.record"] = record
"""
DIGEST = """
from {module} import sha256
sha256({argument}).update(bytes(1 << 10))
"""
SIDES = {
    "records by edgekit_runtime.record": DEFINE,
    "records by dataclasses": STANDARD + DEFINE,
    "SHA-256 of a small file by edgekit_runtime.host.sha256": DIGEST.format(
        module="edgekit_runtime.host.sha256", argument="1 << 10"
    ),
    "SHA-256 of a small file by hashlib": DIGEST.format(module="hashlib", argument=""),
}
CHILD = """
import os, sys, time
import numpy
def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before_bytes, start = resident_bytes(), time.process_time()
{statements}
spent_ms = (time.process_time() - start) * 1e3
print(spent_ms, (resident_bytes() - before_bytes) / (1 << 20))
"""


def main() -> None:
    """Print processor time and growth of resident memory for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=25, help="processes started for each side")
    starts = parser.parse_args().starts
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}  # as installed: compiled
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
        for turn in range(starts + 1):
            for name, statements in SIDES.items():
                figures = _start(statements, environment)
                if turn:  # the first start compiles
                    measured[name].append(figures)
    print(f"Python {sys.version.split()[0]}")
    for name, pairs in measured.items():
        times_ms, sizes_mib = zip(*pairs, strict=True)
        low, _, high = statistics.quantiles(times_ms, n=4)
        print(
            f"{name}: {statistics.median(times_ms):.1f} ms ({low:.1f}..{high:.1f}), "
            f"{statistics.median(sizes_mib):.2f} MiB over numpy"
        )


def _start(statements: str, environment: dict[str, str]) -> tuple[float, float]:
    command = [sys.executable, "-c", CHILD.format(statements=statements)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    spent_ms, size_mib = map(float, printed.split())
    return spent_ms, size_mib


if __name__ == "__main__":
    main()
