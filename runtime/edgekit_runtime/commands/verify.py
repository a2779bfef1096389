"""Verify a bundle on this machine: every digest, and the golden outputs of all variants that can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import EdgekitError, EngineUnavailable, VerificationError
from edgekit_runtime.placement.candidates import candidates
from edgekit_runtime.placement.golden_check import Difference
from edgekit_runtime.placement.load_options import DEFAULTS, LoadOptions
from edgekit_runtime.placement.place import VARIANT_ERRORS, open_variant
from edgekit_runtime.record import dataclass, replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle

PROVEN, WRONG, CANNOT_RUN = "proven", "wrong", "cannot run"


@dataclass(frozen=True)
class VariantResult:
    """The result of verifying one variant."""

    variant: str
    state: str  # PROVEN, WRONG or CANNOT_RUN
    reason: str = ""  # empty when proven
    checked: tuple[Difference, ...] = ()
    delegate: str | None = None


def verify_bundle(bundle: Bundle, options: LoadOptions = DEFAULTS) -> tuple[VariantResult, ...]:
    """Check the digest of every file, then the golden outputs of every variant.

    No cached results are used: accelerators are probed again, and golden outputs are computed again.

    Raises:
        BundleError: a file is not the one that was packed, or a golden array is malformed.
        ProfileError: the bundle has no such device.
        EngineUnavailable: no variant matches ``require``.
        DelegateUnavailable: there is no such delegate.
    """
    bundle.verify_all()
    results = []
    for variant in candidates(bundle.manifest, options):
        try:
            checked = open_variant(
                bundle, variant, replace(options, check="always"), probe_again=True, accept_slow=True
            )
        except VARIANT_ERRORS as error:
            state = WRONG if isinstance(error, VerificationError) else CANNOT_RUN
            results.append(VariantResult(variant.name, state, str(error), delegate=variant.delegate))
            continue
        checked.session.close()
        results.append(VariantResult(variant.name, PROVEN, "", checked.differences, variant.delegate))
    return tuple(results)


def failure(results: tuple[VariantResult, ...]) -> EdgekitError | None:
    """Return the error for the results: a variant is wrong, or none could run. None if the bundle passed."""
    wrong = [result.variant for result in results if result.state == WRONG]
    if wrong:
        return VerificationError(f"{', '.join(wrong)}: the outputs differ from those where the bundle was made")
    if not any(result.state == PROVEN for result in results):
        return EngineUnavailable("no variant can run on this machine")
    return None
