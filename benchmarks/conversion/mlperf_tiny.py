"""MLPerf Tiny's autoencoder (.h5) and keyword spotter (SavedModel): converted and verified, float and int8.

There is no machine noise here to feed the autoencoder, so it hears speech, as the same log-mel features.
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
    """Print, for each variant, reconstruction error or accuracy of source and variant, and their parity."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / path for model, _, samples in MODELS.values() for path in (model, samples)))
    for name, (model, kind, _) in MODELS.items():
        functions = ("--calibrate", f"{DATA}:{kind}_calibration", "--evaluate", f"{DATA}:{kind}_test")
        with tempfile.TemporaryDirectory() as folder:
            for variant in VARIANTS:
                _convert(f"{name} {' '.join(variant)}", data, Path(folder), model, *functions, *variant)


def _convert(what: str, data: Path, work: Path, *arguments: str) -> None:
    """Make one variant in a bundle of its own: what is refused must not hide the others."""
    try:
        made = convert(data, work, *arguments)
        edgekit("verify", str(made.bundle))
    except Failure as refusal:
        if refusal.exit_code != NOT_VERIFIED:
            raise
        figures.show(what, "refused", "verified", holds=False)
        print(refusal, file=sys.stderr)
        return
    source, (variant,) = made.report["source"], made.report["variants"]
    errors = f"{source['value']:.5g} -> {variant['value']:.5g}, {variant['parity']['snr_db']:.1f} dB"
    figures.show(what, errors, "verified", holds=True)


if __name__ == "__main__":
    main()
