"""Measure the time and memory of importing edgekit_runtime over importing numpy: medians of many process starts."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

STATEMENTS = {
    "import edgekit_runtime": "import edgekit_runtime",
    "and edgekit_runtime.load": "import edgekit_runtime; edgekit_runtime.load",
}
# In the child: numpy first, then the statement alone is timed and its growth of resident memory taken.
CHILD = """
import os, time
import numpy
def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before_bytes, start = resident_bytes(), time.perf_counter()
{statement}
spent_ms = (time.perf_counter() - start) * 1e3
print(spent_ms, (resident_bytes() - before_bytes) / (1 << 20))
"""


def main() -> None:
    """Print milliseconds and MiB for the bare import, and for the import with everything that load needs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=25, help="processes started for each figure")
    starts = parser.parse_args().starts
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}  # as installed: compiled
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, statement in STATEMENTS.items():
            _start(statement, environment)  # compiles
            _report(name, [_start(statement, environment) for _ in range(starts)])


def _report(name: str, measured: list[tuple[float, float]]) -> None:
    times_ms, sizes_mib = zip(*measured, strict=True)
    low, _, high = statistics.quantiles(times_ms, n=4)
    print(
        f"{name}: {statistics.median(times_ms):.2f} ms ({low:.2f}..{high:.2f}), "
        f"{statistics.median(sizes_mib):.2f} MiB over numpy"
    )


def _start(statement: str, environment: dict[str, str]) -> tuple[float, float]:
    command = [sys.executable, "-c", CHILD.format(statement=statement)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    spent_ms, size_mib = map(float, printed.split())
    return spent_ms, size_mib


if __name__ == "__main__":
    main()
