"""Run `--quantize auto` on four real models, both formats, and compare with the toolchains' default int8.

The toolchains quantize with their defaults (`plain_int8.py`); both sides are evaluated on the same data. The selected
artifact is timed again in a fresh process, in turns with float32 and with `-q int8` where these are within the limit.
The residual networks are evaluated on 2,000 test images. There is no machine noise for the autoencoder, so it detects
whistles in speech.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion import plain_int8
from benchmarks.conversion.accuracy import RESNET20
from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import MODELS, RESNET8, Conversion, convert, script

TINY = MODELS / "audio_data.py"
DEVICES = {"litert": ("-d", "raspberry-pi-5"), "openvino": ("-d", "intel-cpu")}
BOTH = (*DEVICES["litert"], *DEVICES["openvino"])
MAX_DROP = 0.003
MOST_MINUTES, LEAST_CANDIDATES = 4, 12  # of ResNet-8
SAME_TIME = 1.05  # two measurements of one artifact differ by as much
USUAL = ("float32", "int8-static")
MODELS = {
    "ResNet-8": RESNET8[: RESNET8.index("--evaluate")],
    "ResNet-20": RESNET20[: RESNET20.index("--evaluate")],
    "ad01": (
        "mlperf_tiny/anomaly_detection/ad01.h5",
        *("--calibrate", f"{TINY}:speech_calibration", "--evaluate", f"{TINY}:whistle_test"),
        *("--metric", f"{TINY}:whistle_area"),
    ),
    "DS-CNN": (
        "mlperf_tiny/keyword_spotting/kws_ref_model",
        *("--calibrate", f"{TINY}:keyword_calibration", "--evaluate", f"{TINY}:keyword_test"),
    ),
}


def main() -> None:
    """Print the selection for each model and format: its loss, the loss of the default int8, and its latency."""
    data = real_data.folder(__doc__)
    real_data.need(data / "mlperf_tiny", data / RESNET20[2], data / "cifar10/test.npz", data / "fsdd", data / "kws01")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        images = plain_int8.write_first_images(data, work / "test.npz")
        for name, arguments in MODELS.items():
            evaluate = () if "--evaluate" in arguments else ("--evaluate", str(images))
            flags = (*arguments, *evaluate)
            conversion = convert(data, work, *flags, *BOTH, "-q", "auto", "--max-drop", str(MAX_DROP))
            if name == "ResNet-8":
                _show_speed(conversion)
            _show_drops(name, conversion.report, _plain(name, data))
            show_turns(name, conversion, data, work, flags, MAX_DROP)


def _plain(name: str, data: Path) -> dict[str, float]:
    """Return the metric of the toolchains' int8 by engine, which is the last line that they print."""
    found: dict[str, float] = json.loads(script("conversion.plain_int8", name, str(data)).splitlines()[-1])
    return found


def _show_speed(conversion: Conversion) -> None:
    minutes, candidates = conversion.wall_seconds / 60, len(conversion.report["trials"])
    figures.show(
        f"ResNet-8, a search of {candidates} candidates, empty cache",
        f"{60 * minutes:.0f} s",
        f"<= {MOST_MINUTES} min, {LEAST_CANDIDATES}",
        holds=minutes <= MOST_MINUTES and candidates >= LEAST_CANDIDATES,
    )


def _show_drops(name: str, report: dict[str, Any], plain: dict[str, float]) -> None:
    source = report["source"]["value"]
    figures.show(f"{name}, float: {report['source']['metric']}", f"{source:.4f} of {report['source']['samples']}")
    for variant in report["variants"]:
        ours, theirs = variant["drop"], source - plain[variant["engine"]]
        figures.show(
            f"{name} {variant['name']}: drop, plain default's",
            f"{ours:+.4f}, {theirs:+.4f}",
            f"<= {MAX_DROP:g} and it",
            holds=round(ours, 9) <= min(MAX_DROP, round(theirs, 9)),
        )


def show_turns(
    name: str, conversion: Conversion, data: Path, work: Path, flags: tuple[str, ...], max_drop: float
) -> None:
    """Time the selected artifacts and the usual schemes within the limit; print the ratio to the faster of those."""
    trials, variants = conversion.report["trials"], conversion.report["variants"]
    selected = [
        _artifact(conversion.bundle, variant["name"], work / f"taken-{variant['engine']}") for variant in variants
    ]
    for variant, artifact in zip(variants, selected, strict=True):
        engine = variant["engine"]
        drops = {one["recipe"]: one["drop"] for one in trials if one["engine"] == engine and one["state"] == "measured"}
        fitting = [scheme for scheme in USUAL if scheme in drops and drops[scheme] <= max_drop]
        schemes = (word for scheme in fitting for word in ("-q", scheme))
        usual = convert(data, work, *flags, *DEVICES[engine], *schemes)
        against = [_artifact(usual.bundle, f"{engine}-{scheme}", work / f"{engine}-{scheme}") for scheme in fitting]
        timed = script("harness.time_in_turns", *map(str, (artifact, *against)))
        times_us = np.array(json.loads(timed))  # (rounds, artifacts)
        fastest = 1 + int(np.median(times_us[:, 1:], axis=0).argmin())
        label = f"{name} {variant['name']} over {fitting[fastest - 1]}, a call"
        figures.show_at_most(label, list(times_us[:, 0] / times_us[:, fastest]), SAME_TIME)


def _artifact(bundle: Path, variant: str, folder: Path) -> Path:
    """Unpack a variant's files; return the file to open."""
    with zipfile.ZipFile(bundle) as files:
        names = [name for name in files.namelist() if name.startswith(f"variants/{variant}/")]
        paths = [Path(files.extract(name, folder)) for name in names]
    return next(path for path in paths if path.suffix in (".tflite", ".xml"))


if __name__ == "__main__":
    main()
