"""What a variant requires of the machine, and whether this one has it."""

from __future__ import annotations

import os
import platform
import struct
from typing import TYPE_CHECKING

from edgekit_runtime.errors import IncompatibleDevice

if TYPE_CHECKING:
    from edgekit_runtime.manifest import Variant


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


def numbers(version: str) -> tuple[int, ...]:
    """``"2.14.0rc1"`` → (2, 14, 0): compared number by number, what follows the digits left out."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
