"""Which wheel of an engine's library a machine can load: said before one that cannot is loaded, or is looked for."""

from __future__ import annotations

import os
import re
import sys
from glob import glob
from importlib.util import find_spec
from typing import NamedTuple

from edgekit_runtime.errors import IncompatibleDevice
from edgekit_runtime.host.board import glibc, read_board
from edgekit_runtime.host.machine import architecture, version_numbers

# The packages of an engine's library, in the order in which the engine tries them.
PACKAGES = {"litert": ("ai_edge_litert", "tflite_runtime"), "openvino": ("openvino",)}


class Wheel(NamedTuple):
    """A wheel that can be installed."""

    extra: str  # of edgekit-runtime
    glibc: str  # lowest
    feature: str = ""  # of the processor: a key of board.FEATURES
    last_python: str = ""  # none is made for later ones


# By engine and architecture. What is not here has no wheel.
WHEELS = {
    ("litert", "x86_64"): Wheel("litert", "2.27"),
    ("litert", "aarch64"): Wheel("litert", "2.27"),
    ("litert", "armv7l"): Wheel("tflite", "2.34", "neon", "3.11"),
    ("openvino", "x86_64"): Wheel("openvino", "2.28", "sse4.2"),
    ("openvino", "aarch64"): Wheel("openvino", "2.35"),
}
MANYLINUX = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
TAG = re.compile(r"^Tag: .*-(manylinux\w+?)_(x86_64|i686|aarch64|armv7l)$", re.MULTILINE)


def check_wheel(engine: str) -> None:
    """Hold what the installed library of an engine was built for against this machine.

    Raises:
        IncompatibleDevice: it cannot load here; the message says what is missing.
    """
    package, records = _records(engine)
    tags = [tag for record in records for tag in TAG.findall(_text(os.path.join(record, "WHEEL")))]
    misfits = [misfit(platform, arch, architecture(), glibc()) for platform, arch in tags]
    if misfits and all(misfits):
        raise IncompatibleDevice(f"the installed {package.replace('_', '-')} needs {misfits[0]}")
    wheel = WHEELS.get((engine, architecture()))
    if wheel and wheel.feature:
        features = read_board().features
        if features and wheel.feature not in features:
            raise IncompatibleDevice(f"needs a processor with {wheel.feature}, this has {', '.join(features)}")


def installed(engine: str) -> str:
    """Which version of an engine's library is installed, told without loading it; empty where that is not known."""
    return " ".join(os.path.basename(record).rpartition(".")[0] for record in _records(engine)[1])


def _records(engine: str) -> tuple[str, list[str]]:
    """The package that an engine would load, and where pip keeps what it knows of it: NAME-VERSION.dist-info."""
    for package in PACKAGES.get(engine, ()):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            site = os.path.dirname(os.path.dirname(spec.origin))
            return package, sorted(glob(f"{site}/{package}-*.dist-info"))
    return "", []


def misfit(platform: str, arch: str, have_arch: str, have_glibc: str | None) -> str | None:
    """What a wheel of this platform, such as "manylinux_2_35", needs and the machine has not; None if it fits."""
    need = MANYLINUX.get(platform) or platform.partition("_")[2].replace("_", ".")
    if arch != have_arch:
        return f"{arch}, this is {have_arch}"
    if have_glibc is None:
        return f"glibc {need}, and this system has another C library"
    if version_numbers(have_glibc) < version_numbers(need):
        return f"glibc {need} or newer, this system has {have_glibc}"
    return None


def advice(engine: str, arch: str, have_glibc: str | None, python: tuple[int, ...] = sys.version_info[:2]) -> str:
    """What to install for an engine, or why there is nothing to install."""
    wheel = WHEELS.get((engine, arch))
    if wheel is None:
        return f"there is no wheel for {arch}"
    misses = misfit(f"manylinux_{wheel.glibc.replace('.', '_')}", arch, arch, have_glibc)
    if misses:
        return f"its wheel for {arch} needs {misses}: use a newer system"
    if wheel.last_python and python > version_numbers(wheel.last_python):
        return f"its last wheel for {arch} is for Python {wheel.last_python}: make an environment with that"
    return f"pip install 'edgekit-runtime[{wheel.extra}]'"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:  # distributors' packages have none
        return ""
