"""What a variant requires of the machine, and whether this one has it."""

from __future__ import annotations

import os
import platform
import struct
from typing import TYPE_CHECKING

from edgekit_runtime.errors import IncompatibleDevice

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant


def machine() -> str:
    """The architecture that this Python process runs as, as the kernel spells it on Linux.

    A 32-bit system under a 64-bit kernel is the 32-bit architecture: that is what its libraries are.
    """
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(name, name)
    if struct.calcsize("P") == 4:
        name = {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)
    return name


def check_machine(variant: Variant) -> None:
    """Hold what the variant requires of the machine against this one.

    Raises:
        IncompatibleDevice: something is missing; the message says what.
    """
    check_requirements(variant, machine(), _memory_bytes())


def check_requirements(variant: Variant, arch: str, have_bytes: int | None) -> None:
    """Hold what the variant requires against a machine that is described.

    Args:
        variant: what is to run.
        arch: as ``machine`` says it there.
        have_bytes: the machine's memory; None where that is not known.

    Raises:
        IncompatibleDevice: something is missing; the message says what.
    """
    wanted = variant.requirements
    if wanted.arch and arch not in wanted.arch:
        raise IncompatibleDevice(f"is made for {' or '.join(wanted.arch)}, this is {arch}")
    if wanted.memory_bytes is not None and have_bytes is not None and have_bytes < wanted.memory_bytes:
        raise IncompatibleDevice(f"needs {wanted.memory_bytes >> 20} MiB of memory, there are {have_bytes >> 20}")


def check_library(variant: Variant, name: str, level: str) -> None:
    """Hold the version that the variant requires of its engine's library against the one that is installed.

    Args:
        variant: what is to run.
        name: of the library, with its version, for the message.
        level: the version in the numbering that ``Requirements.engine_version`` is written in.

    Raises:
        IncompatibleDevice: it is older.
    """
    lowest = variant.requirements.engine_version
    if lowest is not None and numbers(level) < numbers(lowest):
        raise IncompatibleDevice(f"needs {variant.engine} {lowest} or newer, and {name} is installed: update that")


def _memory_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def numbers(version: str) -> tuple[int, ...]:
    """``"2.14.0rc1"`` → (2, 14, 0): compared number by number, what follows the digits left out."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
