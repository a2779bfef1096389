"""Select the variant to run: the first that can run on this machine and passes its golden check."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Union

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
from edgekit_runtime.host.machine import architecture, processor
from edgekit_runtime.inference.session import Session
from edgekit_runtime.placement.candidates import candidates, selectors
from edgekit_runtime.placement.golden_check import Difference, cache_key, cached_check
from edgekit_runtime.placement.load_options import DEFAULTS, LoadOptions
from edgekit_runtime.placement.requirements import check_library, check_machine
from edgekit_runtime.record import dataclass, field

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import Engine
    from edgekit_runtime.format.manifest import Manifest, Variant
    from edgekit_runtime.placement.load_options import Event
    from edgekit_runtime.placement.probe import ProbeResult

    VariantKey = tuple[str, Union[str, None]]  # a variant's name and its delegate

# Errors that rule out one variant. A damaged or malformed bundle is not among them: it ends the loading.
VARIANT_ERRORS = (EngineError, IncompatibleDevice, VerificationError)


@dataclass(frozen=True)
class Refusal:
    """A variant that was not selected."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """The variant that runs, its engine and device, and why no better one. Read back from the engine where possible."""

    variant: str
    engine: str
    device: str
    delegate: str | None
    scheme: str
    precision: str | None  # of float arithmetic; None if the library does not report it
    threads: int | None  # of the engine; None if the library does not report it
    versions: dict[str, str] = field(default_factory=dict)  # library name -> version
    refused: tuple[Refusal, ...] = ()
    checked: tuple[Difference, ...] = ()  # from the golden outputs, on this machine
    runs_on: str = ""  # the device, as the library names it
    libraries: dict[str, str] = field(default_factory=dict)  # library name -> path
    delegated: tuple[int, int] | None = None  # operators that the delegate runs, and operators in all
    delegate_options: dict[str, str] = field(default_factory=dict)
    delegate_asked: bool = False  # the caller chose the delegate, not the bundle
    probe: ProbeResult | None = None  # the result of trying it in a child process; None if that was not needed


@dataclass(frozen=True)
class CheckedVariant:
    """A variant that was opened and passed its golden check."""

    session: Session
    differences: tuple[Difference, ...]
    library: Library
    facts: EngineInfo
    probe: ProbeResult | None


class PlacedSession:
    """The session of the selected variant, with its placement."""

    events: tuple[Event, ...] = ()  # a session in this process cannot lose its variant

    def __init__(self, session: Session, placement: Placement) -> None:
        self.session, self.placement = session, placement
        self.run, self.run_one, self.share, self.close = session.run, session.run_one, session.share, session.close


def place(
    bundle: Bundle, options: LoadOptions = DEFAULTS, lost: Mapping[VariantKey, str] | None = None
) -> PlacedSession:
    """Open the best variant that runs on this machine and gives its golden outputs.

    Args:
        bundle: the bundle with the variants.
        options: the options of ``load``.
        lost: variants that crashed or hung while they ran, with the reason; they are not tried again.

    Raises:
        ProfileError: the bundle has no device profile of that name.
        IncompatibleDevice: no variant is made for such a machine.
        EngineUnavailable: no variant passed, or none matches ``require``.
        DelegateUnavailable: no variant passed, and ``require`` names a delegate.
        BundleError: the bundle is damaged; no other variant is tried then.
    """
    refused: list[tuple[Variant, EdgekitError]] = []
    for variant in candidates(bundle.manifest, options):
        reason = (lost or {}).get((variant.name, variant.delegate))
        try:
            if reason is not None:
                raise DelegateCrashed(f"was lost while it ran: {reason}")
            checked = open_variant(bundle, variant, options, accept_slow=options.require is not None)
        except VARIANT_ERRORS as error:
            refused.append((variant, error))
            continue
        refusals = tuple(Refusal(other.name, str(error)) for other, error in refused)
        return PlacedSession(checked.session, _placement(bundle.manifest, variant, checked, refusals))
    raise _no_variant_error(bundle.manifest, refused, options.require)


def _placement(
    manifest: Manifest, variant: Variant, checked: CheckedVariant, refused: tuple[Refusal, ...]
) -> Placement:
    facts, used = checked.facts, checked.library
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
        checked=checked.differences,
        runs_on=facts.device,
        libraries={used.name: used.path, **facts.libraries},
        delegated=facts.delegated,
        delegate_options=_delegate_options(variant),
        delegate_asked=variant not in manifest.variants,
        probe=checked.probe,
    )


def _delegate_options(variant: Variant) -> dict[str, str]:
    if variant.delegate is None:
        return {}
    from edgekit_runtime.engines.delegates import options_for

    return options_for(variant)


def open_variant(
    bundle: Bundle,
    variant: Variant,
    options: LoadOptions = DEFAULTS,
    *,
    probe_again: bool = False,
    accept_slow: bool = False,
) -> CheckedVariant:
    """Open one variant and run its golden check.

    Delegates and accelerators, whose libraries can crash the process, are first tried in a child process.

    Args:
        bundle: the variant's bundle.
        variant: the variant, with the caller's delegate in it.
        options: the options of ``load``.
        probe_again: try it in a child process even if an earlier result is cached.
        accept_slow: accept a delegate that is slower than the CPU alone.

    Raises:
        IncompatibleDevice: the machine or the version of the engine's library does not meet the requirements.
        EngineError: it cannot be opened or run.
        VerificationError: its outputs differ from the golden outputs.
        BundleError: the bundle is damaged.
    """
    check_machine(variant)
    used = _library(variant.engine)
    check_library(variant, f"{used.name} {used.version}", used.level)
    probe = _probe(bundle, variant, used, options, probe_again, accept_slow)
    engine = _open(bundle, variant, options)
    session = Session(bundle.manifest, variant, engine)
    try:
        key = cache_key(bundle, variant, used, engine.facts)
        differences = cached_check(session, bundle, variant, key, options.check)
    except BaseException:  # the engine is closed on every error, KeyboardInterrupt included
        session.close()
        raise
    return CheckedVariant(session, differences, used, engine.facts, probe)


def _library(engine: str) -> Library:
    """Import an engine's library, after checking once that this machine can load its wheel.

    Raises:
        IncompatibleDevice: the machine lacks what the library was built for.
        EngineUnavailable: the library is missing, or does not load for another reason.
    """
    from edgekit_runtime.host import state_cache

    key = {"engine": engine, "python": sys.prefix, "cpu": processor()}
    if not state_cache.get("wheels", key):
        from edgekit_runtime.engines.wheels import check_wheel

        check_wheel(engine)
        state_cache.put("wheels", key, {"fits": True})
    try:
        return library(engine)
    except EngineUnavailable:
        from edgekit_runtime.engines.wheels import check_wheel

        check_wheel(engine)  # the library may have been replaced since
        raise


def _open(bundle: Bundle, variant: Variant, options: LoadOptions) -> Engine:
    if options.isolate_s is None:
        return open_engine(variant, bundle, options.engine_threads, keep=options.cache)
    from edgekit_runtime.engines.isolated import open_isolated

    return open_isolated(variant, bundle, options.engine_threads, options.isolate_s, cache=options.cache)


def _probe(
    bundle: Bundle, variant: Variant, used: Library, options: LoadOptions, again: bool, accept_slow: bool
) -> ProbeResult | None:
    if variant.device == "cpu" and variant.delegate is None:
        return None  # decided without the delegate tables, so that the most common case does not load them
    from edgekit_runtime.engines.delegates import can_crash
    from edgekit_runtime.placement import probe

    if not can_crash(variant):
        return None
    found = probe.probe(bundle, variant, used, options, again=again)
    if found.verdict == probe.OK or (found.verdict == probe.SLOW and accept_slow):
        return found
    raise found.error()


def _no_variant_error(
    manifest: Manifest, refused: list[tuple[Variant, EdgekitError]], require: str | None
) -> EdgekitError:
    """Make the error that lists every variant with the reason why it was refused."""
    kind: Callable[[str], EdgekitError] = EngineUnavailable
    if all(isinstance(error, IncompatibleDevice) for _, error in refused):
        kind = IncompatibleDevice
    elif require is not None and all(selectors(variant).get(require) == "delegate" for variant, _ in refused):
        kind = DelegateUnavailable
    matched = f" that matches {require!r}" if require else ""
    lines = "".join(f"\n  {variant.name}: {error}" for variant, error in refused)
    return kind(f"no variant of {manifest.model_name!r}{matched} can run on this machine ({architecture()}):{lines}")
