"""Pick the variant to run: the first that is possible here and proven, and say why not the others."""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable

from edgekit_runtime.engines import Library, library, open_engine
from edgekit_runtime.errors import (
    DelegateUnavailable,
    EdgekitError,
    EngineError,
    EngineUnavailable,
    IncompatibleDevice,
    ProfileError,
    VerificationError,
)
from edgekit_runtime.selfcheck import Difference, check
from edgekit_runtime.session import Session

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle
    from edgekit_runtime.manifest import Manifest, Variant

PRECISION = "INFERENCE_PRECISION_HINT"

# What takes a variant out of the choice. A damaged or malformed bundle is none of these: it ends the loading.
REASONS = (EngineError, IncompatibleDevice, VerificationError)


@dataclass(frozen=True)
class Refusal:
    """A variant that was not taken."""

    variant: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """What runs, where, on what, and why nothing better."""

    variant: str
    engine: str
    device: str
    delegate: str | None
    scheme: str
    precision: str | None  # what the variant pins float arithmetic to; None is the engine's own rule
    threads: int | None  # None is the engine's own choice
    versions: dict[str, str] = field(default_factory=dict)  # library name -> version
    refused: tuple[Refusal, ...] = ()
    checked: tuple[Difference, ...] = ()  # how far the golden outputs were off, here


def place(
    bundle: Bundle, device: str = "auto", require: str | None = None, threads: int | None = None
) -> tuple[Session, Placement]:
    """Open the best variant that this machine can run and that gives its golden outputs here.

    Args:
        bundle: where the variants are.
        device: ``"auto"`` prefers the variants of the profiles whose arch is this machine's; a profile's name
            prefers that profile's. All others follow in the manifest's order.
        require: a variant's name, engine, ``engine:device``, device, delegate or scheme; no other
            variant is taken.
        threads: None leaves the number to the engine.

    Raises:
        ProfileError: the bundle has no profile of that name.
        IncompatibleDevice: no variant is made for such a machine.
        EngineUnavailable: none could be opened and proven, or none is what was required.
        DelegateUnavailable: likewise, and a delegate was required.
        BundleError: the bundle is damaged; no other variant is tried then.
    """
    refused: list[tuple[Variant, EdgekitError]] = []
    wanted = required(bundle.manifest, order(bundle.manifest, device), require)
    for variant in wanted:
        try:
            session, differences, used = prove(bundle, variant, threads)
        except REASONS as error:
            refused.append((variant, error))
            continue
        return session, Placement(
            variant=variant.name,
            engine=variant.engine,
            device=variant.device,
            delegate=variant.delegate,
            scheme=variant.scheme,
            precision=variant.settings.get(PRECISION),
            threads=threads,
            versions={used.name: used.version},
            refused=tuple(Refusal(other.name, str(error)) for other, error in refused),
            checked=differences,
        )
    raise _none_left(bundle.manifest, refused, require)


def order(manifest: Manifest, device: str = "auto") -> list[Variant]:
    """All variants, those that the device's profile prefers first.

    Raises:
        ProfileError: ``device`` is neither ``"auto"`` nor a profile of the bundle.
    """
    known = {str(profile["name"]): profile for profile in manifest.devices}
    if device != "auto" and device not in known:
        names = ", ".join(["auto", *known])
        raise ProfileError(f"the bundle {manifest.model_name!r} has no device {device!r}, only {names}")
    here = machine()
    chosen = [p for name, p in known.items() if name == device or (device == "auto" and p.get("arch") == here)]
    preferred = [name for profile in chosen for name in profile.get("variants", ())]
    by_name = {variant.name: variant for variant in manifest.variants}
    return [by_name[name] for name in dict.fromkeys([*preferred, *by_name])]


def prove(
    bundle: Bundle, variant: Variant, threads: int | None = None
) -> tuple[Session, tuple[Difference, ...], Library]:
    """Open one variant and hold it against its golden outputs.

    Raises:
        IncompatibleDevice: the machine is not what the variant requires.
        EngineError: it cannot be opened or run.
        VerificationError: it gives other outputs than where it was made.
        BundleError: the bundle is damaged.
    """
    _check_machine(variant)
    used = library(variant.engine)
    lowest = variant.requirements.engine_version
    if lowest is not None and _numbers(used.level) < _numbers(lowest):
        raise EngineUnavailable(
            f"needs {variant.engine} {lowest} or newer, and {used.name} {used.version} is installed"
        )
    session = Session(bundle.manifest, variant, open_engine(variant, bundle, threads))
    try:
        differences = check(session, bundle, variant)
        wrong = [str(difference) for difference in differences if not difference.holds]
        if wrong:
            raise VerificationError(f"computes something else on this machine: {'; '.join(wrong)}")
    except BaseException:  # whatever stopped it, the engine is closed before the error goes on
        session.close()
        raise
    return session, differences, used


def machine() -> str:
    """The architecture that this Python process runs as, as the kernel spells it on Linux.

    A 32-bit system under a 64-bit kernel is the 32-bit architecture: that is what its libraries are.
    """
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(name, name)
    if struct.calcsize("P") == 4:
        name = {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)
    return name


def _check_machine(variant: Variant) -> None:
    wanted = variant.requirements
    if wanted.arch and machine() not in wanted.arch:
        raise IncompatibleDevice(f"is made for {' or '.join(wanted.arch)}, this is {machine()}")
    have_bytes = _memory_bytes()
    if wanted.memory_bytes is not None and have_bytes is not None and have_bytes < wanted.memory_bytes:
        raise IncompatibleDevice(f"needs {wanted.memory_bytes >> 20} MiB of memory, there are {have_bytes >> 20}")


def _memory_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _numbers(version: str) -> tuple[int, ...]:
    """``"2.14.0rc1"`` → (2, 14, 0): compared number by number, what follows the digits left out."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _answers(variant: Variant) -> dict[str, str]:
    """Every word that ``require`` may use for the variant, and what kind of word it is."""
    words = {
        variant.name: "variant",
        variant.scheme: "scheme",
        variant.device: "device",
        variant.engine: "engine",
        f"{variant.engine}:{variant.device}": "engine and device",
    }
    return {**words, variant.delegate: "delegate"} if variant.delegate else words


def required(manifest: Manifest, variants: list[Variant], require: str | None) -> list[Variant]:
    """The variants that are what is required.

    Raises:
        EngineUnavailable: none is.
    """
    if require is None:
        return variants
    found = [variant for variant in variants if require in _answers(variant)]
    if not found:
        words = dict.fromkeys(word for variant in variants for word in _answers(variant))
        raise EngineUnavailable(
            f"no variant of {manifest.model_name!r} is what was required, {require!r}; there are {', '.join(words)}"
        )
    return found


def _none_left(manifest: Manifest, refused: list[tuple[Variant, EdgekitError]], require: str | None) -> EdgekitError:
    """The error that lists every variant with its reason."""
    kind: Callable[[str], EdgekitError] = EngineUnavailable
    if all(isinstance(error, IncompatibleDevice) for _, error in refused):
        kind = IncompatibleDevice
    elif require is not None and all(_answers(variant).get(require) == "delegate" for variant, _ in refused):
        kind = DelegateUnavailable
    asked = f" that is {require!r}" if require else ""
    lines = "".join(f"\n  {variant.name}: {error}" for variant, error in refused)
    return kind(f"no variant of {manifest.model_name!r}{asked} can run on this machine ({machine()}):{lines}")
