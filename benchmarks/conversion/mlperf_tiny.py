"""Convert and verify MLPerf Tiny's autoencoder (.h5) and keyword spotter (SavedModel), float and int8.

There is no machine noise for the autoencoder, so it gets speech, as the same log-mel features.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import MODELS, Failure, convert, edgekit

NOT_VERIFIED = 5  # edgekit's exit code when an artifact differs more than allowed
DATA = MODELS / "audio_data.py"
# name: (model, functions of DATA to calibrate and evaluate, the real data they read)
MODELS = {
    "ad01": ("mlperf_tiny/anomaly_detection/ad01.h5", "speech", "fsdd/fsdd_8khz_int16.npz"),
    "kws": ("mlperf_tiny/keyword_spotting/kws_ref_model", "keyword", "kws01/kws01_mfcc_int8.npz"),
}
VARIANTS = [
    ("-d", device, "-q", scheme) for device in ("generic-arm64", "intel-cpu") for scheme in ("float32", "int8-static")
]


def main() -> None:
    """Print, for each variant, the reconstruction error or accuracy of source and variant, and their parity."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / path for model, _, samples in MODELS.values() for path in (model, samples)))
    for name, (model, kind, _) in MODELS.items():
        functions = ("--calibrate", f"{DATA}:{kind}_calibration", "--evaluate", f"{DATA}:{kind}_test")
        with tempfile.TemporaryDirectory() as folder:
            for variant in VARIANTS:
                _convert(f"{name} {' '.join(variant)}", data, Path(folder), model, *functions, *variant)


def _convert(label: str, data: Path, work: Path, *arguments: str) -> None:
    """Convert one variant into a bundle of its own, so that a refused one does not hide the others."""
    try:
        conversion = convert(data, work, *arguments)
        edgekit("verify", str(conversion.bundle))
    except Failure as refusal:
        if refusal.exit_code != NOT_VERIFIED:
            raise
        figures.show(label, "refused", "verified", holds=False)
        print(refusal, file=sys.stderr)
        return
    source, (variant,) = conversion.report["source"], conversion.report["variants"]
    errors = f"{source['value']:.5g} -> {variant['value']:.5g}, {variant['parity']['snr_db']:.1f} dB"
    figures.show(label, errors, "verified", holds=True)


if __name__ == "__main__":
    main()
