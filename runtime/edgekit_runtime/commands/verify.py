"""Verify a bundle on this machine: every digest, and the golden outputs of all variants that can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import EdgekitError, EngineUnavailable, VerificationError
from edgekit_runtime.placement.candidates import candidates
from edgekit_runtime.placement.golden_check import Difference
from edgekit_runtime.placement.place import AS_USUAL, REASONS, How, prove
from edgekit_runtime.record import dataclass, replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle

PROVEN, WRONG, CANNOT_RUN = "proven", "wrong", "cannot run"


@dataclass(frozen=True)
class Verdict:
    """What became of one variant."""

    variant: str
    state: str  # PROVEN, WRONG or CANNOT_RUN
    reason: str = ""  # empty when proven
    checked: tuple[Difference, ...] = ()
    delegate: str | None = None


def verify(
    bundle: Bundle,
    device: str = "auto",
    require: str | None = None,
    threads: int | None = None,
    how: How = AS_USUAL,
) -> tuple[Verdict, ...]:
    """Hold every file against its digest, then every variant against its golden outputs.

    Nothing is taken from memory: accelerators are probed again, and golden outputs computed again.
    ``require`` narrows the variants as it does for ``place``, ``how`` brings the caller's delegate and a child process.

    Raises:
        BundleError: a file is not what was packed, or a golden array is malformed.
        ProfileError: the bundle has no such device.
        EngineUnavailable: no variant is what was required.
        DelegateUnavailable: there is no such delegate.
    """
    bundle.verify_all()
    how = replace(how, check="always", probe_again=True, slow_is_fine=True)
    verdicts = []
    for variant in candidates(bundle.manifest, device, require, how.delegate, how.delegate_options):
        try:
            proof = prove(bundle, variant, threads, how)
        except REASONS as error:
            state = WRONG if isinstance(error, VerificationError) else CANNOT_RUN
            verdicts.append(Verdict(variant.name, state, str(error), delegate=variant.delegate))
            continue
        proof.session.close()
        verdicts.append(Verdict(variant.name, PROVEN, "", proof.checked, variant.delegate))
    return tuple(verdicts)


def failure(verdicts: tuple[Verdict, ...]) -> EdgekitError | None:
    """The error that the verdicts amount to: one is wrong, or none could run. None when all is well."""
    wrong = [verdict.variant for verdict in verdicts if verdict.state == WRONG]
    if wrong:
        return VerificationError(f"{', '.join(wrong)}: other outputs here than where the bundle was made")
    if not any(verdict.state == PROVEN for verdict in verdicts):
        return EngineUnavailable("no variant can run on this machine")
    return None
