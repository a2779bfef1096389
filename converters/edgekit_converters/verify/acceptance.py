"""The verdicts: which difference is too large, at which stage it arose, and which loss of accuracy is too much."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import Artifact, Comparison, Evaluation, Source
from edgekit_converters.verify.metrics import higher_is_better
from edgekit_runtime.errors import VerificationError

UNSEEN_STEPS = 2.0  # an error of so many steps of a tensor's own quantization is what its dtype costs
DOUBTFUL_DB = 20.0  # a file that came quantized, in another engine: below this, people are told
CAUSES = {
    "lower": "the toolchain that lowered the model computes something else than the model",
    "quantize": "the float artifact was right, so the quantization broke it",
}


def check_parity(artifact: Artifact, comparison: Comparison, *, stage: str) -> None:
    """Refuse an artifact of which an output, or a part of one, is nearer to noise than its scheme allows.

    Scores of samples that show nothing are all next to zero, and their error is as large as they are: what is within
    two steps of the tensor's own quantization everywhere says nothing and is let through.

    Raises:
        VerificationError: naming stage, output, what was measured and the floor.
    """
    floor_db = SCHEMES[artifact.scheme].floor_db
    told = [one for one in comparison.parity if one.max_abs_error > UNSEEN_STEPS * one.step]
    worst = min(told, key=lambda one: one.snr_db, default=None)
    if worst is None or worst.snr_db >= floor_db:
        return
    raise VerificationError(
        f"verify: {artifact.engine} {artifact.scheme}: broken at stage {stage!r}: {worst.where} has "
        f"{worst.snr_db:.1f} dB signal to noise against the source, {floor_db:.0f} dB are needed "
        f"(max abs error {worst.max_abs_error:.4g}, cosine {worst.cosine:.4f})\n"
        f"{CAUSES[stage]}; no bundle was written"
    )


def doubts(source: Source, artifact: Artifact, comparison: Comparison) -> tuple[str, ...]:
    """Return a note when a file that came quantized computes something rather different in another engine."""
    worst = comparison.worst
    if not source.quantized or worst.snr_db >= DOUBTFUL_DB:
        return ()
    return (
        f"{artifact.engine} {artifact.scheme}: agrees with the file as it came by only {worst.snr_db:.1f} dB "
        f"({worst.where}): measure it with --evaluate before you rely on it",
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
    """Refuse when any variant costs more than the limit.

    Raises:
        VerificationError: naming every such variant, what it has and what the source has.
    """
    if limit is None or source is None:
        return
    measured = {name: evaluation for name, evaluation in variants.items() if evaluation is not None}
    # NaN, from outputs that are not finite, is within no limit
    over = {name: evaluation for name, evaluation in measured.items() if not drop(source, evaluation) <= limit}
    if not over:
        return
    listed = "; ".join(
        f"{name}: {source.metric} {evaluation.value:.4f}, drop {drop(source, evaluation):.4f}"
        for name, evaluation in over.items()
    )
    raise VerificationError(
        f"verify: more is lost than --max-drop {limit} allows (the source has {source.value:.4f}): {listed}\n"
        f"try more calibration samples, another --quantize scheme (int16x8-static, float16), or a higher limit; "
        f"no bundle was written"
    )
