"""Time opening and verifying a signed bundle of 14 MB against `sha256sum` of it, in turns.

Ours is the first bundle of a fresh process that has imported the runtime, so loading `cryptography` counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import figures
from edgekit.bundle.signing import make_key, read_private_key, sign
from edgekit.bundle.writer import write_bundle
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant

ROUNDS = 15
ROWS = 3_500  # of 1000 float32: 14 MB
SHARE, MORE_MS = 1.3, 10.0
CHILD = """
import sys, time
import edgekit_runtime
edgekit_runtime.load
start = time.perf_counter()
with edgekit_runtime.open_bundle(sys.argv[1], trust=[sys.argv[2]]) as bundle:
    bundle.verify_all()
print((time.perf_counter() - start) * 1e3)
"""


def main() -> None:
    """Print the times for a file and for a folder, and our time relative to the target."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        private, public = make_key(work / "key.pem", "p256")
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(work / "bytecode")}  # as installed: compiled
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for form in ("file", "folder"):
            bundle = _write(work / f"as-{form}", as_directory=form == "folder")
            sign(bundle, [read_private_key(private)])
            files = [bundle] if form == "file" else [path for path in bundle.rglob("*") if path.is_file()]
            command = [sys.executable, "-c", CHILD, str(bundle), str(public)]
            rounds = [(_ours_ms(command, environment), _sha256sum_ms(files)) for _ in range(ROUNDS + 1)][1:]
            ours, theirs = zip(*rounds, strict=True)
            figures.show(f"sha256sum of a bundle of 14 MB, a {form}", f"{figures.with_spread(theirs)} ms")
            limit_ms = SHARE * float(np.median(theirs)) + MORE_MS
            figures.show_at_most(f"open and verify it, signed, a {form}", ours, round(limit_ms, 1), " ms")


def _write(path: Path, *, as_directory: bool) -> Path:
    """Write a bundle with one artifact of 14 MB."""
    random = np.random.default_rng(0)
    for name, array in {
        "weights": random.random((ROWS, 1000), np.float32),
        "x": np.zeros((1, 1, ROWS), np.float32),
        "y": np.zeros((1, 1, 1000), np.float32),
    }.items():
        np.save(path.parent / f"{name}.npy", array)
    binding = (TensorBinding(0, "x", "float32"),)
    variant = Variant("v", "null", "cpu", "float32", ("v/weights.npy",), binding, binding, Golden(("g/y.npy",), (0.0,)))
    ends = InputSpec("x", (1, ROWS), "float32"), OutputSpec("y", (1, 1000), "float32")
    manifest = Manifest("weights", "1", ends[:1], ends[1:], (variant,), (), ("g/x.npy",))
    files = {place: path.parent / Path(place).name for place in ("v/weights.npy", "g/x.npy", "g/y.npy")}
    write_bundle(manifest, files, path, as_directory=as_directory)
    return path


def _ours_ms(command: list[str], environment: dict[str, str]) -> float:
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def _sha256sum_ms(files: list[Path]) -> float:
    start = time.perf_counter()
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
