"""What this machine is, read from the files in which Linux says so. The root folder may be another one, for tests."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

from edgekit_runtime.host.machine import architecture
from edgekit_runtime.record import dataclass

# What libraries choose their kernels by: the words of /proc/cpuinfo, any of which says that it is there.
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
# Arm's own cores by the part number of /proc/cpuinfo, as the main ID register has it.
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
    """A machine. What it does not say is None or empty."""

    name: str | None
    soc: str | None  # as its device tree calls it, such as "brcm,bcm2711"
    processor: str | None  # the kinds of its cores
    arch: str  # of this Python process
    features: tuple[str, ...]  # keys of FEATURES that every core has
    cores: int
    memory_bytes: int | None
    available_bytes: int | None  # of the memory, now
    glibc: str | None  # None where the C library is another


def read_board(root: str = "/") -> Board:
    """Read what the machine is. Nothing is refused: a file that is not there says nothing."""
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
    """The version of the C library, if that is glibc."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, ValueError, OSError):  # not Unix, or another C library
        name, version = platform.libc_ver()
    return version if name == "glibc" and version else None


def read_text(root: str, path: str) -> str:
    """A small file's text; "" where there is none. Opened without looking first: emulators tell only who opens."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _first_line(root: str, path: str) -> str | None:
    return read_text(root, path).strip("\0\n ").partition("\n")[0] or None


def _soc(root: str) -> str | None:
    """The last, most general name of a device tree's `compatible`, which ends with the chip."""
    names = [name for name in read_text(root, "proc/device-tree/compatible").split("\0") if name.strip()]
    return names[-1].strip() if names else None


def _cores(root: str) -> Iterator[dict[str, str]]:
    """One dict a core; the block behind them that tells of the whole board is none."""
    for block in read_text(root, "proc/cpuinfo").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        core = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in core:
            yield core


def _core_name(core: dict[str, str]) -> str | None:
    return CORES.get(core.get("CPU part", "")) or core.get("model name")


def _features(cores: list[dict[str, str]]) -> tuple[str, ...]:
    """What all cores have: a program may be moved from one to another at any time."""
    words = [set((core.get("Features") or core.get("flags") or "").split()) for core in cores]
    shared = set.intersection(*words) if words else set()
    return tuple(name for name, spelled in FEATURES.items() if shared & set(spelled.split()))


def _memory_bytes(root: str) -> dict[str, int]:
    found = {}
    for line in read_text(root, "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0]) << 10  # all that is told in kB
    return found
