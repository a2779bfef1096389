"""What the runtime costs a board: importing it over numpy alone, and calling it over the bare interpreter."""

from __future__ import annotations

import re

import figures
import real_data
from commands import script


def main() -> None:
    """Run the two scripts that measure, and hold what they print against the targets."""
    data = real_data.folder(__doc__)
    imported = script("runtime_import.py")
    spent_ms, size_mib = _numbers(r"import edgekit_runtime: ([\d.]+) ms .*, (-?[\d.]+) MiB", imported)
    figures.show_at_most("import edgekit_runtime over numpy, time", [spent_ms], 15, " ms")
    figures.show_at_most("import edgekit_runtime over numpy, memory", [size_mib * 2**20 / 1e6], 3, " MB")
    called = script("runtime_call.py", "--data", str(data))
    (int8,) = _numbers(r"int8 input: .*ratio ([\d.]+)", called)
    figures.show_at_most("model(x) over set_tensor, invoke and get_tensor", [int8], 1.05)
    (request,) = _numbers(r"OpenVINO, int8 input: .*ratio ([\d.]+)", called)
    figures.show_at_most("model(x) over a raw OpenVINO request", [request], 1.05)
    (real,) = _numbers(r"float32 input: .*ratio ([\d.]+)", called)
    figures.show("model(x) over the same quantized by hand, float32", f"{real:.3g}")
    print("".join(f"  {line}\n" for line in (imported + called).splitlines()), end="")


def _numbers(pattern: str, printed: str) -> list[float]:
    match = re.search(pattern, printed)
    if match is None:
        raise SystemExit(f"{printed}not measured: no line like {pattern!r} in it")
    return [float(group) for group in match.groups()]


if __name__ == "__main__":
    main()
