"""Read what a machine is from Linux's files. Tests pass another root folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from edgekit_runtime.host.machine import architecture
from edgekit_runtime.record import dataclass

# Instruction sets by which libraries select kernels, and the flags of /proc/cpuinfo; one of them is enough.
FEATURES = {
    "neon": "neon asimd",
    "fp16": "asimdhp",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "sse4.2": "sse4_2",
    "avx": "avx",
    "fma": "fma",
    "avx2": "avx2",
    "avx-vnni": "avx_vnni",
    "avx512": "avx512f",
    "avx512-vnni": "avx512_vnni",
    "avx512-bf16": "avx512_bf16",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
}
# Arm's cores by the part number in /proc/cpuinfo.
CORES = {
    "0xc07": "Cortex-A7",
    "0xc08": "Cortex-A8",
    "0xc09": "Cortex-A9",
    "0xc0f": "Cortex-A15",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
}


@dataclass(frozen=True)
class Board:
    """A machine. Values that it does not report are None or empty."""

    name: str | None
    soc: str | None  # in the device tree, such as "brcm,bcm2711"
    processor: str | None  # the kinds of its cores
    arch: str  # of this Python process
    features: tuple[str, ...]  # keys of FEATURES that every core has
    cores: int
    memory_bytes: int | None
    available_bytes: int | None  # of the memory, now
    glibc: str | None  # None if the C library is another


def read_board(root: str = "/") -> Board:
    """Read the machine's properties. Missing files are no error."""
    cores = list(_cores(root))
    memory_bytes = _memory_bytes(root)
    return Board(
        name=_first_line(root, "proc/device-tree/model") or _first_line(root, "sys/class/dmi/id/product_name"),
        soc=_soc(root),
        processor=", ".join(dict.fromkeys(filter(None, map(_core_name, cores)))) or None,
        arch=architecture(),
        features=_features(cores),
        cores=len(cores) or os.cpu_count() or 1,
        memory_bytes=memory_bytes.get("MemTotal"),
        available_bytes=memory_bytes.get("MemAvailable"),
        glibc=glibc(),
    )


def glibc() -> str | None:
    """Return the version of glibc; None if the C library is another."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not Unix, or another C library
        name, version = platform.libc_ver()
    return version if name == "glibc" and version else None


def read_text(root: str, path: str) -> str:
    """Read a small file; "" if there is none. It is opened without a check, since emulators handle only the opening."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _first_line(root: str, path: str) -> str | None:
    return read_text(root, path).strip("\0\n ").partition("\n")[0] or None


def _soc(root: str) -> str | None:
    """Return the last name in the device tree's `compatible`, which is the chip."""
    names = [name for name in read_text(root, "proc/device-tree/compatible").split("\0") if name.strip()]
    return names[-1].strip() if names else None


def _cores(root: str) -> Iterator[dict[str, str]]:
    """Yield a dict for each core; the last block, which describes the board, is skipped."""
    for block in read_text(root, "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        core = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in core:
            yield core


def _core_name(core: dict[str, str]) -> str | None:
    return CORES.get(core.get("CPU part", "")) or core.get("model name")


def _features(cores: list[dict[str, str]]) -> tuple[str, ...]:
    """Return the features that all cores have, since a program may run on any of them."""
    words = [set((core.get("Features") or core.get("flags") or "").split()) for core in cores]
    shared = set.intersection(*words) if words else set()
    return tuple(name for name, flags in FEATURES.items() if shared & set(flags.split()))


def _memory_bytes(root: str) -> dict[str, int]:
    found = {}
    for line in read_text(root, "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0]) << 10  # all values are in kB
    return found
