"""Measure the cost of importing the runtime on a board, over numpy alone."""

from __future__ import annotations

import re

from benchmarks.harness import figures
from benchmarks.harness.commands import script


def main() -> None:
    """Run `import_time.py`, and compare its result with the targets."""
    imported = script("runtime.import_time")
    spent_ms, size_mib = _numbers(r"import edgekit_runtime: ([\d.]+) ms .*, (-?[\d.]+) MiB", imported)
    figures.show_at_most("import edgekit_runtime over numpy, time", [spent_ms], 15, " ms")
    figures.show_at_most("import edgekit_runtime over numpy, memory", [size_mib * 2**20 / 1e6], 3, " MB")
    print("".join(f"  {line}\n" for line in imported.splitlines()), end="")


def _numbers(pattern: str, printed: str) -> list[float]:
    match = re.search(pattern, printed)
    if match is None:
        raise SystemExit(f"{printed}not measured: no line like {pattern!r} in it")
    return [float(group) for group in match.groups()]


if __name__ == "__main__":
    main()
