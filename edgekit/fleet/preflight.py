"""Determine which boards of a fleet can run a bundle, before it is sent.

The rules are those of the runtime, applied to a described machine: the checks of an installation, and those by which
``load`` selects a variant. Whether a delegate works and the golden outputs match is known only on the board, which
rolls back if not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.fleet.inventory import BoardRecord
from edgekit_runtime import open_bundle
from edgekit_runtime.engines.delegates import can_crash, check_hardware
from edgekit_runtime.errors import (
    BundleError,
    DelegateUnavailable,
    EngineError,
    EngineUnavailable,
    IncompatibleDevice,
    SignatureInvalid,
    UnsupportedVersion,
)
from edgekit_runtime.format.manifest import SIGNATURE_NAME, Manifest, Variant
from edgekit_runtime.placement.candidates import matching, order
from edgekit_runtime.placement.requirements import check_library, check_requirements
from edgekit_runtime.store.install_checks import check_board
from edgekit_runtime.trust.signature import read_envelope

WITHOUT_LIBRARY = "null"  # the reference engine in numpy


@dataclass(frozen=True)
class BundleSummary:
    """What preflight needs to know about a bundle."""

    manifest: Manifest
    size_bytes: int  # on the board's disk
    signers: tuple[str, ...] = ()  # key ids that its signatures name; "" if one names none


@dataclass(frozen=True)
class RefusedVariant:
    """A variant that a board cannot run."""

    variant: str
    reason: str


@dataclass(frozen=True)
class BoardResult:
    """What a board can run of the bundle."""

    board: str
    kind: str
    arch: str
    runs: tuple[str, ...]  # variants that can run, best first; the board takes the first that passes its checks
    refused: tuple[RefusedVariant, ...]
    reason: str = ""  # why the whole bundle is refused
    warnings: tuple[str, ...] = ()


def read_bundle_summary(path: str | Path) -> BundleSummary:
    """Read the summary of a bundle.

    Raises:
        BundleError: there is no bundle at the path, or it breaks the format.
    """
    with open_bundle(path, trust=False) as opened:
        manifest, signature = opened.manifest, opened.unlisted().get(SIGNATURE_NAME)
    signers = read_envelope(signature).key_ids if signature is not None else ()
    return BundleSummary(manifest, sum(record.size_bytes for record in manifest.files), signers)


def preflight(bundle: BundleSummary, boards: list[BoardRecord], require: str | None = None) -> list[BoardResult]:
    """Return for each board what it can run of a bundle.

    Args:
        bundle: summary of the bundle.
        boards: the inventory.
        require: as for ``load``; consider only variants that match this word.

    Raises:
        EngineUnavailable: no variant of the bundle matches ``require``.
    """
    matching(bundle.manifest, order(bundle.manifest), require)  # raises if no variant matches the word
    return [_check(bundle, board, require) for board in boards]


def _check(bundle: BundleSummary, board: BoardRecord, require: str | None) -> BoardResult:
    runs, refused, reason = [], [], ""
    try:
        check_bundle(bundle, board)
    except BundleError as error:
        reason = str(error)
    for variant in matching(bundle.manifest, order(bundle.manifest, arch=board.arch), require):
        try:
            check_variant(variant, board)
        except (EngineError, IncompatibleDevice) as error:
            refused.append(RefusedVariant(variant.name, str(error)))
        else:
            runs.append(variant.name)
    warnings = tuple(_warnings(bundle, board, runs))
    return BoardResult(
        board.name, board.kind, board.arch, () if reason else tuple(runs), tuple(refused), reason, warnings
    )


def check_bundle(bundle: BundleSummary, board: BoardRecord) -> None:
    """Check that the board can read and trust the bundle, and would install it.

    Raises:
        UnsupportedVersion: the bundle is of a newer format.
        SignatureInvalid: its signatures name no key that the board trusts.
        IncompatibleDevice: no variant is for such a machine.
    """
    if bundle.manifest.format_version > board.format_version:
        raise UnsupportedVersion(
            f"format_version is {bundle.manifest.format_version}, edgekit-runtime {board.runtime} reads up to "
            f"{board.format_version}: update it first"
        )
    if board.trusted is not None and not {*board.trusted, ""} & set(bundle.signers):
        signed = ", ".join(key[:16] for key in bundle.signers) or "no key"
        trusted = ", ".join(key[:16] for key in board.trusted) or "no key that could be read"
        raise SignatureInvalid(f"is signed by {signed}, trusted are {trusted}: sign it with a trusted key")
    check_board(bundle.manifest, other=(board.arch, board.memory_bytes))


def check_variant(variant: Variant, board: BoardRecord) -> None:
    """Check a variant as ``load`` does before it opens the artifact.

    Raises:
        IncompatibleDevice: the machine or a library version does not meet the requirements.
        EngineUnavailable: a library or the hardware is missing.
        DelegateUnavailable: the delegate's library is missing.
    """
    check_requirements(variant, board.arch, board.memory_bytes)
    if variant.engine == WITHOUT_LIBRARY:
        return
    engine = board.engines.get(variant.engine)
    if engine is None:
        raise EngineUnavailable(
            f"there is no engine {variant.engine!r} in this edgekit-runtime, only "
            f"{', '.join((WITHOUT_LIBRARY, *board.engines))}: update it with pip install -U edgekit-runtime"
        )
    if not engine.library:
        raise EngineUnavailable(engine.reason)
    check_library(variant, engine.library, engine.level)
    check_hardware(
        variant, engine.library.rpartition(" ")[0], board.hardware_signs.get(f"{variant.engine}:{variant.device}", ())
    )
    if variant.engine == "litert" and variant.delegate is not None and board.delegates.get(variant.delegate, "?"):
        unknown = f"there is no delegate {variant.delegate!r} in edgekit-runtime {board.runtime}"
        raise DelegateUnavailable(board.delegates.get(variant.delegate, unknown))


def _warnings(bundle: BundleSummary, board: BoardRecord, runs: list[str]) -> list[str]:
    found = []
    if board.disk_free_bytes is not None and board.disk_free_bytes < bundle.size_bytes:
        free, need = board.disk_free_bytes >> 10, bundle.size_bytes >> 10
        found.append(f"{free:,} KiB of disk are free, the bundle needs {need:,}")
    by_name = {variant.name: variant for variant in bundle.manifest.variants}
    if runs and all(can_crash(by_name[name]) for name in runs):
        found.append("no variant can run on the CPU: if the accelerator fails, there is no fallback")
    return found
