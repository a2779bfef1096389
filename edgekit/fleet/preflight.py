"""Which boards of a fleet can run a bundle, said before anything is sent.

The rules are the runtime's own, asked about a machine that is described: the store's for what it takes, and those by
which ``load`` walks the variants. What only running can tell, whether a delegate works and whether the numbers hold,
the board finds out itself, and rolls back.
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

WITHOUT_LIBRARY = "null"  # the engine that is numpy


@dataclass(frozen=True)
class BundleSummary:
    """What is to be sent."""

    manifest: Manifest
    size_bytes: int  # that it takes on a board's disk
    signers: tuple[str, ...] = ()  # ids of keys, as its signatures name them; "" where one does not


@dataclass(frozen=True)
class Refused:
    """A variant that a board cannot run."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What a board will do with the bundle."""

    board: str
    what: str
    arch: str
    runs: tuple[str, ...]  # variants that may run, best first; the first is the one that is taken if it proves itself
    refused: tuple[Refused, ...]
    reason: str = ""  # why the whole bundle is refused
    warnings: tuple[str, ...] = ()


def read_offer(bundle: str | Path) -> BundleSummary:
    """Read what preflight asks of a bundle.

    Raises:
        BundleError: there is none, or it breaks the format.
    """
    with open_bundle(bundle, trust=False) as opened:
        manifest, signature = opened.manifest, opened.unlisted().get(SIGNATURE_NAME)
    signers = read_envelope(signature).key_ids if signature is not None else ()
    return BundleSummary(manifest, sum(record.size_bytes for record in manifest.files), signers)


def preflight(offer: BundleSummary, boards: list[BoardRecord], require: str | None = None) -> list[Verdict]:
    """Tell of each board what it will do with a bundle.

    Args:
        offer: what is to be sent.
        boards: who was asked.
        require: as of ``load``; only such variants count.

    Raises:
        EngineUnavailable: no variant is what was required.
    """
    matching(offer.manifest, order(offer.manifest), require)  # refuses a word that no variant answers to
    return [_verdict(offer, board, require) for board in boards]


def _verdict(offer: BundleSummary, board: BoardRecord, require: str | None) -> Verdict:
    runs, refused, reason = [], [], ""
    try:
        check_bundle(offer, board)
    except BundleError as error:
        reason = str(error)
    for variant in matching(offer.manifest, order(offer.manifest, arch=board.arch), require):
        try:
            check_variant(variant, board)
        except (EngineError, IncompatibleDevice) as error:
            refused.append(Refused(variant.name, str(error)))
        else:
            runs.append(variant.name)
    warnings = tuple(_warnings(offer, board, runs))
    return Verdict(board.name, board.what, board.arch, () if reason else tuple(runs), tuple(refused), reason, warnings)


def check_bundle(offer: BundleSummary, board: BoardRecord) -> None:
    """Refuse what the board's runtime cannot read or does not trust, or its store would not take.

    Raises:
        UnsupportedVersion: the bundle is of a newer format.
        SignatureInvalid: none of the keys that the board trusts is named by its signatures.
        IncompatibleDevice: nothing in it is made for such a machine.
    """
    if offer.manifest.format_version > board.format_version:
        raise UnsupportedVersion(
            f"format_version is {offer.manifest.format_version}, edgekit-runtime {board.runtime} reads up to "
            f"{board.format_version}: update it first"
        )
    if board.trusted is not None and not {*board.trusted, ""} & set(offer.signers):
        signed = ", ".join(key[:16] for key in offer.signers) or "nobody"
        trusted = ", ".join(key[:16] for key in board.trusted) or "no key that could be read"
        raise SignatureInvalid(f"is signed by {signed}, trusted are {trusted}: sign it with a trusted key")
    check_board(offer.manifest, other=(board.arch, board.memory_bytes))


def check_variant(variant: Variant, board: BoardRecord) -> None:
    """Refuse what ``load`` would refuse before it opens the artifact.

    Raises:
        IncompatibleDevice: the machine, or the version of a library, is not what the variant requires.
        EngineUnavailable: a library, or the hardware, is missing.
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
        variant, engine.library.rpartition(" ")[0], board.shown.get(f"{variant.engine}:{variant.device}", ())
    )
    if variant.engine == "litert" and variant.delegate is not None and board.delegates.get(variant.delegate, "?"):
        unknown = f"there is no delegate {variant.delegate!r} in edgekit-runtime {board.runtime}"
        raise DelegateUnavailable(board.delegates.get(variant.delegate, unknown))


def _warnings(offer: BundleSummary, board: BoardRecord, runs: list[str]) -> list[str]:
    found = []
    if board.disk_free_bytes is not None and board.disk_free_bytes < offer.size_bytes:
        free, need = board.disk_free_bytes >> 10, offer.size_bytes >> 10
        found.append(f"{free:,} KiB of disk are free where state is kept, the bundle takes {need:,}")
    by_name = {variant.name: variant for variant in offer.manifest.variants}
    if runs and all(can_crash(by_name[name]) for name in runs):
        found.append("nothing that runs there runs on the CPU: if the accelerator fails, nothing is left")
    return found
