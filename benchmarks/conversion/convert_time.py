"""Time `edgekit convert`: ResNet-8 to int8 TFLite and IR, against two hand-written scripts.

All three load, calibrate on 500 images, quantize, and evaluate source and result on 10,000. edgekit makes both formats,
compares each with the source, times them and writes a bundle as well. Its cache is empty at first; a second conversion
with another scheme uses the cache of the first.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import RESNET8, Conversion, convert, script

ROUNDS = 3


def main() -> None:
    """Print wall times and ratios of interleaved rounds."""
    data = real_data.folder(__doc__)
    real_data.need(data / RESNET8[0], data / "cifar10/test.npz")
    first, second, tflite, ir = [], [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            tflite.append(_seconds("conversion.raw_resnet8_tflite", data, Path(folder) / "raw.tflite"))
            ir.append(_seconds("conversion.raw_resnet8_ir", data, Path(folder) / "raw.xml"))
            first.append(convert(data, Path(folder), *RESNET8, "-q", "int8-static"))
            second.append(convert(data, Path(folder), *RESNET8, "-q", "int8-weights"))
    figures.show("raw TFLite script", f"{figures.with_spread(tflite)} s")
    figures.show("raw IR script", f"{figures.with_spread(ir)} s")
    figures.show("edgekit, both formats, empty cache", f"{figures.with_spread(_walls(first))} s")
    figures.show("edgekit, again with int8-weights", f"{figures.with_spread(_walls(second))} s")
    slower = [max(pair) for pair in zip(tflite, ir, strict=True)]
    figures.show_at_most("edgekit over the slower script", _ratios(_walls(first), slower), 1.25)
    figures.show_at_most("second conversion over the first", _ratios(_walls(second), _walls(first)), 0.5)
    _show_stages(first[-1])


def _seconds(name: str, data: Path, output: Path) -> float:
    """Return the seconds of one hand-written script in a process of its own."""
    started = time.perf_counter()
    script(name, "--data", str(data), "--output", str(output))
    return time.perf_counter() - started


def _walls(conversions: list[Conversion]) -> list[float]:
    return [conversion.wall_seconds for conversion in conversions]


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def _show_stages(conversion: Conversion) -> None:
    """Print the time of each stage of one conversion; the branches of the formats overlap."""
    for stage in sorted(conversion.report["stages"], key=lambda stage: -stage["seconds"])[:6]:
        figures.show(f"  of its time: {stage['stage']} {stage['subject']}", f"{stage['seconds']:.1f} s")


if __name__ == "__main__":
    main()
