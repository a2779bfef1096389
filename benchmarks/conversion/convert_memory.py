"""Measure the memory of `edgekit convert`: MobileNetV2 at 224 pixels to int8 TFLite and IR, all processes together.

The sum of the processes' proportional set sizes (a shared page counts once), sampled from /proc: Linux only.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, Conversion, convert

IMAGES = 100
INTERVAL_S = 0.05
LIMIT_GIB = 4
SCALE = ("--scale", str(1 / 127.5), "--mean", "1")  # 0..255 → -1..1


def main() -> None:
    """Print the peak of the sum during one conversion."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(_peak_bytes, ended)
        try:
            conversion = _convert()
        finally:
            ended.set()
    peak_gib = watching.result() / 2**30
    figures.show_at_most("MobileNetV2-224 int8, both formats, peak memory", [peak_gib], LIMIT_GIB, " GiB")
    for stage in sorted(conversion.report["stages"], key=lambda stage: -stage["peak_mib"])[:4]:
        figures.show(f"  of one process: {stage['stage']} {stage['subject']}", f"{stage['peak_mib']:.0f} MiB")
    figures.show("wall time", f"{conversion.wall_seconds:.1f} s")


def _convert() -> Conversion:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.save(work / "images.npy", generated_images(IMAGES))
        model = f"{MODELS / 'mobilenet_v2.py'}:mobilenet_v2"
        return convert(work, work, model, "-q", "int8-static", "--calibrate", "images.npy", *SCALE, "--no-cache")


def _peak_bytes(ended: threading.Event) -> int:
    """Return the peak memory of all child processes together, until the event is set."""
    peak_bytes, me = 0, os.getpid()
    while not ended.wait(INTERVAL_S):
        peak_bytes = max(peak_bytes, sum(pss_bytes(process) for process in tree(me) if process != me))
    return peak_bytes


def generated_images(count: int) -> np.ndarray:
    """Return seeded images with large and small structures, uint8 (count, 224, 224, 3)."""
    generator = np.random.default_rng(20)
    images = np.zeros((count, 224, 224, 3))
    for cells in (7, 28, 224):
        noise = generator.uniform(-1, 1, (count, cells, cells, 3))
        images += noise.repeat(224 // cells, axis=1).repeat(224 // cells, axis=2)
    return np.clip(127.5 + 60 * images, 0, 255).astype(np.uint8)


def tree(process: int) -> Iterator[int]:
    """Yield a process and all of its descendants."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in _read(task).split():
            yield from tree(int(child))


def pss_bytes(process: int) -> int:
    """Return the proportional set size of a process; 0 if it has just ended."""
    for line in _read(Path(f"/proc/{process}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone between listing and reading
        return ""


if __name__ == "__main__":
    main()
