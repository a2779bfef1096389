"""Pick the variant to run: the first that is possible here and proven, and say why not the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from edgekit_runtime.engines import EngineInfo, Library, library, open_engine
from edgekit_runtime.errors import (
    DelegateCrashed,
    DelegateUnavailable,
    EdgekitError,
    EngineError,
    EngineUnavailable,
    IncompatibleDevice,
    VerificationError,
)
from edgekit_runtime.inference.session import Session
from edgekit_runtime.placement.candidates import answers, candidates
from edgekit_runtime.placement.golden_check import Difference, check_key, checked, processor
from edgekit_runtime.placement.requirements import check_library, check_machine, machine
from edgekit_runtime.record import dataclass, field, replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import Engine
    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.format.manifest import Manifest, Variant
    from edgekit_runtime.placement.probe import Probe

# What takes a variant out of the choice. A damaged or malformed bundle is none of these: it ends the loading.
REASONS = (EngineError, IncompatibleDevice, VerificationError)


@dataclass(frozen=True)
class Refusal:
    """A variant that was not taken."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """What runs, where, on what, and why nothing better. All but the names is read back from what runs."""

    variant: str
    engine: str
    device: str
    delegate: str | None
    scheme: str
    precision: str | None  # of float arithmetic; None where the library does not say
    threads: int | None  # of the engine; None where the library does not say
    versions: dict[str, str] = field(default_factory=dict)  # library name -> version
    refused: tuple[Refusal, ...] = ()
    checked: tuple[Difference, ...] = ()  # how far the golden outputs were off, here
    runs_on: str = ""  # the device, as the library names it
    libraries: dict[str, str] = field(default_factory=dict)  # library name -> path
    delegated: tuple[int, int] | None = None  # operators the delegate took, and of how many
    delegate_options: dict[str, str] = field(default_factory=dict)
    delegate_asked: bool = False  # by the caller, not by the bundle
    probe: Probe | None = None  # what became of it in a child process; None where nothing had to be probed


@dataclass(frozen=True)
class How:
    """How variants are to be opened."""

    delegate: str | None = None  # the caller's own: a known name, or the path of a library
    delegate_options: Options | None = None
    check: str = "auto"  # one of selfcheck.CHECKS
    probe_again: bool = False
    slow_is_fine: bool = False  # take a delegate that is slower than the CPU
    cache: bool = True  # what engines make of the artifact may be kept, and used again
    isolate_s: float | None = None  # run in a child process, which is ended when a run takes longer
    fallen: Mapping[tuple[str, str | None], str] = field(default_factory=dict)  # key_of what was lost -> how


@dataclass(frozen=True)
class Proof:
    """A variant that was opened and proven."""

    session: Session
    checked: tuple[Difference, ...]
    library: Library
    facts: EngineInfo
    probe: Probe | None


AS_USUAL = How()


def place(
    bundle: Bundle, device: str = "auto", require: str | None = None, threads: int | None = None, how: How = AS_USUAL
) -> tuple[Session, Placement]:
    """Open the best variant that this machine can run and that gives its golden outputs here.

    Args:
        bundle: where the variants are.
        device: ``"auto"`` prefers the variants of the profiles whose arch is this machine's; a profile's name
            prefers that profile's. All others follow in the manifest's order.
        require: a variant's name, engine, ``engine:device``, device, delegate or scheme; no other
            variant is taken.
        threads: None leaves the number to the engine.
        how: the caller's delegate, and how much is checked.

    Raises:
        ProfileError: the bundle has no profile of that name.
        IncompatibleDevice: no variant is made for such a machine.
        EngineUnavailable: none could be opened and proven, or none is what was required.
        DelegateUnavailable: likewise, and a delegate was required.
        BundleError: the bundle is damaged; no other variant is tried then.
    """
    refused: list[tuple[Variant, EdgekitError]] = []
    for variant in candidates(bundle.manifest, device, require, how.delegate, how.delegate_options):
        lost = how.fallen.get((variant.name, variant.delegate))
        try:
            if lost is not None:
                raise DelegateCrashed(f"was lost while it ran: {lost}")
            proof = prove(bundle, variant, threads, replace(how, slow_is_fine=require is not None))
        except REASONS as error:
            refused.append((variant, error))
            continue
        refusals = tuple(Refusal(other.name, str(error)) for other, error in refused)
        return proof.session, _placement(bundle.manifest, variant, proof, refusals)
    raise _none_left(bundle.manifest, refused, require)


def key_of(placement: Placement) -> tuple[str, str | None]:
    """What tells a variant from the same one with another delegate."""
    return placement.variant, placement.delegate


def _placement(manifest: Manifest, variant: Variant, proof: Proof, refused: tuple[Refusal, ...]) -> Placement:
    facts, used = proof.facts, proof.library
    return Placement(
        variant=variant.name,
        engine=variant.engine,
        device=variant.device,
        delegate=variant.delegate,
        scheme=variant.scheme,
        precision=facts.precision,
        threads=facts.threads,
        versions={used.name: used.version},
        refused=refused,
        checked=proof.checked,
        runs_on=facts.device,
        libraries={used.name: used.path, **facts.libraries},
        delegated=facts.delegated,
        delegate_options=_options(variant),
        delegate_asked=variant not in manifest.variants,
        probe=proof.probe,
    )


def _options(variant: Variant) -> dict[str, str]:
    """What the variant's delegate was given."""
    if variant.delegate is None:
        return {}
    from edgekit_runtime.engines.delegates import options_for

    return options_for(variant)


def prove(bundle: Bundle, variant: Variant, threads: int | None = None, how: How = AS_USUAL) -> Proof:
    """Open one variant and hold it against its golden outputs.

    What may take the process with it, delegates and accelerators, is first tried in a child process.

    Raises:
        IncompatibleDevice: the machine, or the version of the engine's library, is not what the variant requires.
        EngineError: it cannot be opened or run.
        VerificationError: it gives other outputs than where it was made.
        BundleError: the bundle is damaged.
    """
    check_machine(variant)
    used = _library(variant.engine)
    check_library(variant, f"{used.name} {used.version}", used.level)
    probed = _probe(bundle, variant, used, threads, how)
    engine = _open(bundle, variant, threads, how)
    session = Session(bundle.manifest, variant, engine)
    try:
        key = check_key(bundle, variant, used, engine.facts)
        differences = checked(session, bundle, variant, key, how.check)
    except BaseException:  # whatever stopped it, the engine is closed before the error goes on
        session.close()
        raise
    return Proof(session, differences, used, engine.facts, probed)


def _library(engine: str) -> Library:
    """An engine's library, held against the machine before it is loaded: once, and again when it does not load.

    Raises:
        IncompatibleDevice: the machine lacks what it was built for.
        EngineUnavailable: it is missing, or does not load for another reason.
    """
    from edgekit_runtime.host import state_cache

    key = {"engine": engine, "python": sys.prefix, "cpu": processor()}
    if not state_cache.recall("wheels", key):
        from edgekit_runtime.engines.wheels import check_wheel

        check_wheel(engine)
        state_cache.remember("wheels", key, {"fits": True})
    try:
        return library(engine)
    except EngineUnavailable:
        from edgekit_runtime.engines.wheels import check_wheel

        check_wheel(engine)  # it may have been replaced since
        raise


def _open(bundle: Bundle, variant: Variant, threads: int | None, how: How) -> Engine:
    if how.isolate_s is None:
        return open_engine(variant, bundle, threads, keep=how.cache)
    from edgekit_runtime.engines.isolated import open_isolated

    return open_isolated(variant, bundle, threads, how.isolate_s, cache=how.cache)


def _probe(bundle: Bundle, variant: Variant, used: Library, threads: int | None, how: How) -> Probe | None:
    if variant.device == "cpu" and variant.delegate is None:
        return None  # said here as well, so that the tables are not loaded for what is most common
    from edgekit_runtime.engines.delegates import is_foreign
    from edgekit_runtime.placement import probe

    if not is_foreign(variant):
        return None
    found = probe.probe(bundle, variant, used, threads, how)
    if found.verdict == probe.OK or (found.verdict == probe.SLOW and how.slow_is_fine):
        return found
    raise found.error()


def _none_left(manifest: Manifest, refused: list[tuple[Variant, EdgekitError]], require: str | None) -> EdgekitError:
    """The error that lists every variant with its reason."""
    kind: Callable[[str], EdgekitError] = EngineUnavailable
    if all(isinstance(error, IncompatibleDevice) for _, error in refused):
        kind = IncompatibleDevice
    elif require is not None and all(answers(variant).get(require) == "delegate" for variant, _ in refused):
        kind = DelegateUnavailable
    asked = f" that is {require!r}" if require else ""
    lines = "".join(f"\n  {variant.name}: {error}" for variant, error in refused)
    return kind(f"no variant of {manifest.model_name!r}{asked} can run on this machine ({machine()}):{lines}")
