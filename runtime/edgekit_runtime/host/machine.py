"""The processor architecture and model of this machine, and the comparison of version numbers."""

from __future__ import annotations

import os
import platform
import struct

# The lines of /proc/cpuinfo that identify the processor model, on x86 and ARM.
CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features", "microcode")


def architecture() -> str:
    """Return the architecture of this Python process, in the kernel's spelling, such as ``"aarch64"``.

    A 32-bit process under a 64-bit kernel has the 32-bit architecture, since it loads 32-bit libraries.
    """
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(name, name)
    if struct.calcsize("P") == 4:
        name = {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)
    return name


def processor() -> str:
    """Return text that identifies the processor model and its instruction sets."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(8192).split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in first if line.startswith(CPU_LINES))


def total_memory_bytes() -> int | None:
    """Return the size of the machine's memory; None if the system does not report it."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def version_numbers(version: str) -> tuple[int, ...]:
    """Parse a version for comparison: ``"2.14.0rc1"`` becomes (2, 14, 0), without what follows the digits."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
