"""Describe a machine, the engines and accelerators that it can use, and what to install."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator

import numpy as np

from edgekit_runtime.engines import ENGINES, library
from edgekit_runtime.engines.delegates import DELEGATES, SIGNS, find_signs, library_path
from edgekit_runtime.engines.wheels import check_wheel, install_advice
from edgekit_runtime.errors import DelegateUnavailable, EngineUnavailable, IncompatibleDevice, SignatureInvalid
from edgekit_runtime.format.manifest import FORMAT_VERSION
from edgekit_runtime.host import state_cache
from edgekit_runtime.host.board import Board, read_board
from edgekit_runtime.host.thermal import ThermalState, read_thermal_state
from edgekit_runtime.record import dataclass, field
from edgekit_runtime.trust.policy import trusted_keys
from edgekit_runtime.version import __version__

HOT_C = 80.0  # from here, boards without a fan slow down
LOW_BYTES = 64 << 20
NO_HOME = "this user has no home folder, so no results are cached: set EDGEKIT_STATE to a folder"
# Devices that users still have, and that no engine supports any more.
UNSUPPORTED = {"usb:03e7:2485": "Intel Neural Compute Stick 2: no OpenVINO after 2022.3 supports it (as MYRIAD)"}
DEVICE_NAMES = {
    "gpu": ("GPU", "OpenVINO supports it if it is Intel's, LiteRT if it has a Vulkan driver"),
    "npu": ("NPU", "OpenVINO supports it if it is Intel's"),
}


@dataclass(frozen=True)
class EngineFound:
    """An engine's library, or why it cannot be used."""

    engine: str
    library: str | None  # name and version
    reason: str = ""
    install: str = ""  # the command that installs it; empty if it is installed
    level: str = ""  # the version, in the numbering of a bundle's requirements


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that was found, and whether its library is installed."""

    what: str  # its name
    signs: tuple[str, ...]
    delegate: str | None = None
    library: str | None = None  # path of the delegate's library
    reason: str = ""  # why it cannot be used, or which engine supports it


@dataclass(frozen=True)
class Diagnosis:
    """The result of ``diagnose``."""

    board: Board
    python: str
    numpy: str
    engines: tuple[EngineFound, ...]
    accelerators: tuple[Accelerator, ...]
    condition: ThermalState
    state_folder: str  # of the state cache
    disk_free_bytes: int | None  # in that folder
    warnings: tuple[str, ...]
    # Used by `edgekit preflight`.
    host: str = ""
    runtime: str = ""  # the version of edgekit-runtime
    format_version: int = 0  # the newest that it reads
    shown: dict[str, tuple[str, ...]] = field(default_factory=dict)  # "engine:device" -> the signs that were found
    delegates: dict[str, str] = field(default_factory=dict)  # name -> why its library cannot be used, or ""
    trusted: tuple[str, ...] | None = None  # ids of trusted keys; None if no signature is required


def diagnose(root: str = "/") -> Diagnosis:
    """Examine the machine. This raises no error, loads no delegate, and writes nothing."""
    board, condition, folder = read_board(root), read_thermal_state(root), state_cache.folder()
    has_cache = not folder.startswith(os.devnull)
    free_bytes = _free_bytes(folder) if has_cache else None
    return Diagnosis(
        board=board,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        numpy=np.__version__,
        engines=tuple(_engine(name, board) for name in ENGINES if name != "null"),
        accelerators=tuple(_accelerators(root)),
        condition=condition,
        state_folder=folder,
        disk_free_bytes=free_bytes,
        warnings=(*_warnings(board, condition, free_bytes), *([] if has_cache else [NO_HOME])),
        host=platform.node(),
        runtime=__version__,
        format_version=FORMAT_VERSION,
        shown={f"{engine}:{device}": tuple(find_signs(signs, root)) for (engine, device), signs in SIGNS.items()},
        delegates={name: _delegate_library(name)[1] for name in DELEGATES},
        trusted=_trusted(),
    )


def _engine(name: str, board: Board) -> EngineFound:
    try:
        check_wheel(name)
        used = library(name)
    except (EngineUnavailable, IncompatibleDevice) as error:
        return EngineFound(name, None, str(error), install_advice(name, board.arch, board.glibc))
    return EngineFound(name, f"{used.name} {used.version}", level=used.level)


def _accelerators(root: str) -> Iterator[Accelerator]:
    for name, delegate in DELEGATES.items():
        signs = find_signs(delegate.signs, root)
        if signs:
            path, reason = _delegate_library(name)
            yield Accelerator(delegate.hardware, tuple(signs), name, path, reason)
    for kind, (what, reason) in DEVICE_NAMES.items():
        patterns = " ".join(signs for (_, device), signs in SIGNS.items() if device == kind)
        devices = (sign for sign in find_signs(patterns, root) if sign.startswith("/dev/"))
        if shown := tuple(dict.fromkeys(devices)):
            yield Accelerator(what, shown, reason=reason)
    for sign, reason in UNSUPPORTED.items():
        if find_signs(sign, root):
            what, _, why = reason.partition(": ")
            yield Accelerator(what, (sign,), reason=why)


def _delegate_library(name: str) -> tuple[str | None, str]:
    try:
        return library_path(name), ""
    except DelegateUnavailable as error:
        return None, str(error)


def _trusted() -> tuple[str, ...] | None:
    """Return the ids of the machine's keys; none of them if they cannot be read, since every bundle is then refused."""
    try:
        keys = trusted_keys(None)
    except SignatureInvalid:
        return ()
    return None if keys is None else tuple(key.id for key in keys)


def _free_bytes(folder: str) -> int | None:
    """Return the free disk space where a folder is or will be."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _warnings(board: Board, condition: ThermalState, free_bytes: int | None) -> Iterator[str]:
    for zone, celsius in condition.temperatures_c.items():
        if celsius >= HOT_C:
            yield f"{zone} is at {celsius:.0f} degrees Celsius: the processor may slow down"
    for limit in condition.limits:
        yield f"the processor is throttled: {limit}"
    for group, clock in condition.clocks.items():
        if clock.governor == "powersave":
            yield f"{group} uses the powersave governor: it will be slow"
    if board.available_bytes is not None and board.available_bytes < LOW_BYTES:
        yield f"only {board.available_bytes >> 20} MiB of memory are free"
    if free_bytes is not None and free_bytes < LOW_BYTES:
        yield f"only {free_bytes >> 20} MiB are free in the folder of the state cache"


def lines(found: Diagnosis) -> Iterator[str]:
    """Describe a diagnosis in lines of text."""
    board = found.board
    yield board.name or "unknown machine"
    yield f"  processor    {board.processor or 'unknown'}, {board.cores} cores, {board.arch}"
    yield from [f"  soc          {board.soc}"] if board.soc else []
    yield f"  features     {', '.join(board.features) or 'none known'}"
    yield f"  memory       {_mib(board.available_bytes)} free of {_mib(board.memory_bytes)}"
    yield f"  python       {found.python}, numpy {found.numpy}, " + (
        f"glibc {board.glibc}" if board.glibc else "another C library than glibc"
    )
    yield f"  state        {found.state_folder}, {_mib(found.disk_free_bytes)} free"
    for zone, celsius in found.condition.temperatures_c.items():
        yield f"  temperature  {zone} {celsius:.1f} C"
    for group, clock in found.condition.clocks.items():
        yield f"  clock        {group} {clock.now_mhz:.0f} of {clock.max_mhz:.0f} MHz, {clock.governor}"
    for engine in found.engines:
        yield f"  engine       {engine.engine}: {engine.library or engine.reason}"
        yield from [f"                 {engine.install}"] if engine.install else []
    for accelerator in found.accelerators:
        yield f"  accelerator  {accelerator.what} ({', '.join(accelerator.signs)})"
        yield f"                 {accelerator.library or accelerator.reason}"
    for warning in found.warnings:
        yield f"  warning      {warning}"


def _mib(count_bytes: int | None) -> str:
    return "unknown" if count_bytes is None else f"{count_bytes >> 20:,} MiB"
