"""Limits: the parity that an artifact must reach, and the accuracy drop that is allowed."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import Artifact, Comparison, Evaluation, Source
from edgekit_converters.verify.metrics import higher_is_better
from edgekit_runtime.errors import VerificationError

ROUNDING_STEPS = 2.0  # errors up to so many quantization steps of a tensor are rounding
WARNING_DB = 20.0  # a quantized file in another engine: below this a note warns
CAUSES = {
    "lower": "the lowered model computes other values than the model",
    "quantize": "the float artifact is correct, so quantization is the cause",
}


def check_parity(artifact: Artifact, comparison: Comparison, *, stage: str) -> None:
    """Reject an artifact if the signal-to-noise ratio of an output, or of a part of it, is below its scheme's floor.

    Outputs that differ nowhere by more than two quantization steps pass: if all values are near zero, such as the
    scores of empty images, rounding alone is as large as the signal.

    Raises:
        VerificationError: the message has the stage, the output, the measured ratio and the floor.
    """
    floor_db = SCHEMES[artifact.scheme].floor_db
    relevant = [parity for parity in comparison.parity if parity.max_abs_error > ROUNDING_STEPS * parity.step]
    worst = min(relevant, key=lambda parity: parity.snr_db, default=None)
    if worst is None or worst.snr_db >= floor_db:
        return
    raise VerificationError(
        f"verify: {artifact.engine} {artifact.scheme}: broken at stage {stage!r}: {worst.location} has "
        f"{worst.snr_db:.1f} dB signal to noise against the source, {floor_db:.0f} dB are required "
        f"(max abs error {worst.max_abs_error:.4g}, cosine {worst.cosine:.4f})\n"
        f"{CAUSES[stage]}; no bundle was written"
    )


def parity_warnings(source: Source, artifact: Artifact, comparison: Comparison) -> tuple[str, ...]:
    """Return a note if a quantized model file computes rather different values in another engine."""
    worst = comparison.worst
    if not source.quantized or worst.snr_db >= WARNING_DB:
        return ()
    return (
        f"{artifact.engine} {artifact.scheme}: agrees with the original file by only {worst.snr_db:.1f} dB "
        f"({worst.location}): check it with --evaluate before you use it",
    )


def twin_notes(artifact: Artifact) -> tuple[str, ...]:
    """Return a note when an artifact's twin was verified and measured in its place."""
    if artifact.executable:
        return ()
    return (
        f"{artifact.engine} {artifact.scheme}: this machine cannot run the artifact; accuracy, parity, golden outputs "
        f"and latency are those of the same model on this machine's CPU: test the bundle on the device",
    )


def drop(source: Evaluation, variant: Evaluation) -> float:
    """Return how much worse a variant is than the source, in the metric's unit; below 0 is better."""
    loss = source.value - variant.value
    return loss if higher_is_better(source.metric) else -loss


def check_drop(limit: float | None, source: Evaluation | None, variants: Mapping[str, Evaluation | None]) -> None:
    """Reject variants whose accuracy drop is over the limit.

    Raises:
        VerificationError: the message lists these variants with their values.
    """
    if limit is None or source is None:
        return
    measured = {name: evaluation for name, evaluation in variants.items() if evaluation is not None}
    # written with `not`, so that NaN is over every limit
    over = {name: evaluation for name, evaluation in measured.items() if not drop(source, evaluation) <= limit}
    if not over:
        return
    listed = "; ".join(
        f"{name}: {source.metric} {evaluation.value:.4f}, drop {drop(source, evaluation):.4f}"
        for name, evaluation in over.items()
    )
    raise VerificationError(
        f"verify: the drop is over --max-drop {limit} (the source has {source.value:.4f}): {listed}\n"
        f"try more calibration samples, another --quantize scheme (int16x8-static, float16), or a higher limit; "
        f"no bundle was written"
    )
