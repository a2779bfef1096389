"""Does the variant compute here what it computed where it was made?

It is asked when a variant is first opened on a machine, and again whenever anything has changed that the answer
depends on; in between the answer is remembered.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgekit_runtime.errors import VerificationError
from edgekit_runtime.host.sha256 import sha256
from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import EngineInfo, Library
    from edgekit_runtime.format.manifest import Manifest, Variant
    from edgekit_runtime.inference.session import Session


@dataclass(frozen=True)
class Difference:
    """How far one output was from its golden values, in the output's unit."""

    output: str  # its name, and which part of it where parts have tolerances of their own
    max_abs: float  # NaN where either side was not a finite number
    allowed: float

    @property
    def holds(self) -> bool:
        """Within the tolerance. NaN never is."""
        return self.max_abs <= self.allowed

    def __str__(self) -> str:
        return f"output {self.output!r} differs by {self.max_abs:.3g}, allowed is {self.allowed:.3g}"


NATIVE = (".so", ".dylib", ".dll", ".pyd")
CHECKS = ("auto", "always", "never")
TOPIC = "selfcheck"
# The lines of /proc/cpuinfo that tell one kind of processor from another, on x86 and ARM.
CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features", "microcode")


def checked(
    session: Session, bundle: Bundle, variant: Variant, key: dict[str, str], how: str
) -> tuple[Difference, ...]:
    """The differences from the golden outputs, from memory where all is as it was when they held.

    Args:
        session: the variant, opened.
        bundle: where the variant is.
        variant: what was opened.
        key: of ``check_key``.
        how: ``"auto"``, ``"always"`` to ask again, or ``"never"``, which gives no differences.

    Raises:
        VerificationError: an output differs by more than is allowed.
        BundleError: as ``golden.check``.
        EngineError: as ``golden.check``.
    """
    if how == "never":
        return ()
    from edgekit_runtime.host import state_cache

    known = state_cache.recall(TOPIC, key) if how == "auto" else None
    differences = _remembered(known, bundle, variant) if known else None
    if differences is None:
        from edgekit_runtime.placement.golden import check

        differences = check(session, bundle, variant)
        if not wrong(differences):
            state_cache.remember(TOPIC, key, {each.output: each.max_abs for each in differences})
    problem = wrong(differences)
    if problem:
        state_cache.forget(TOPIC, key)
        raise VerificationError(f"computes something else on this machine: {problem}")
    return differences


def check_key(bundle: Bundle, variant: Variant, library: Library, facts: EngineInfo) -> dict[str, str]:
    """All that a check's outcome depends on: files, library, processor, threads and settings."""
    digests = {record.path: record.sha256 for record in bundle.manifest.files}
    used = (*variant.files, *variant.golden.outputs, *bundle.manifest.golden_inputs)
    return {
        "files": " ".join(digests[path] for path in used),
        "bindings": repr((variant.inputs, variant.outputs, variant.golden.max_abs)),
        "library": f"{library.name} {library.version} {library.path} {_written(library.path)}",
        "facts": repr(facts),
        "delegate": f"{variant.delegate} {sorted(variant.settings.items())}",
        "cpu": processor(),
    }


def _written(path: str) -> str:
    """When a library's native files were written, to tell one build from another of the same version.

    Those of its own folder and of ``libs`` in it, where OpenVINO has its own.
    """
    found = []
    for folder in (path, os.path.join(path, "libs")):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(NATIVE) or ".so." in entry.name:
                    told = entry.stat()
                    found.append(f"{entry.name} {told.st_size} {told.st_mtime_ns} {told.st_ctime_ns}")
    digest = sha256(len(found))
    digest.update("\n".join(sorted(found)).encode())
    return str(digest.hexdigest()[:32])


def wrong(differences: tuple[Difference, ...]) -> str:
    """The outputs that differ by more than is allowed, in words; empty when all hold."""
    return "; ".join(str(difference) for difference in differences if not difference.holds)


def _remembered(known: dict[str, Any], bundle: Bundle, variant: Variant) -> tuple[Difference, ...] | None:
    """What was remembered, if it is whole: the memory is a file that anything may have happened to."""
    wanted = limits(bundle.manifest, variant)
    if sorted(known) != sorted(wanted) or not all(isinstance(value, float) for value in known.values()):
        return None
    return tuple(Difference(name, known[name], allowed) for name, allowed in wanted.items())


def limits(manifest: Manifest, variant: Variant) -> dict[str, float]:
    """How far each output may be off, or each part of one, by what a difference calls it; in order."""
    found = {}
    for spec, limit in zip(manifest.outputs, variant.golden.max_abs):
        if isinstance(limit, tuple):
            found.update({f"{spec.name} part {part}": allowed for part, allowed in enumerate(limit)})
        else:
            found[spec.name] = limit
    return found


def processor() -> str:
    """What kind of processor this is."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in first if line.startswith(CPU_LINES))
