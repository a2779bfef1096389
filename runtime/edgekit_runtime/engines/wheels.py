"""Check whether a machine can load the wheel of an engine's library, before it is imported."""

from __future__ import annotations

import os
import re
import sys
from glob import glob
from importlib.util import find_spec
from typing import NamedTuple

from edgekit_runtime.engines import ENGINES, engine_module
from edgekit_runtime.errors import IncompatibleDevice
from edgekit_runtime.host.board import glibc, read_board
from edgekit_runtime.host.machine import architecture, version_numbers


class Wheel(NamedTuple):
    """A wheel that can be installed."""

    extra: str  # of edgekit-runtime
    glibc: str  # lowest
    feature: str = ""  # of the processor: a key of board.FEATURES
    last_python: str = ""  # the last Python version that has a wheel


MANYLINUX = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
TAG = re.compile(r"^Tag: .*-(manylinux\w+?)_(x86_64|i686|aarch64|armv7l)$", re.MULTILINE)


def check_wheel(engine: str) -> None:
    """Check that this machine can load the installed library of an engine.

    Raises:
        IncompatibleDevice: it cannot; the message names what is missing.
    """
    package, records = _records(engine)
    tags = [tag for record in records for tag in TAG.findall(_text(os.path.join(record, "WHEEL")))]
    problems = [incompatibility(platform, arch, architecture(), glibc()) for platform, arch in tags]
    if problems and all(problems):
        raise IncompatibleDevice(f"the installed {package.replace('_', '-')} needs {problems[0]}")
    wheel = _wheel(engine, architecture())
    if wheel and wheel.feature:
        features = read_board().features
        if features and wheel.feature not in features:
            raise IncompatibleDevice(f"needs a processor with {wheel.feature}, this one has {', '.join(features)}")


def installed_version(engine: str) -> str:
    """Return the name and version of an engine's installed library, without importing it; empty if unknown."""
    return " ".join(os.path.basename(record).rpartition(".")[0] for record in _records(engine)[1])


def _records(engine: str) -> tuple[str, list[str]]:
    """Return the package that an engine would import, and the paths of its NAME-VERSION.dist-info folders."""
    for package in ENGINES[engine].packages if engine in ENGINES else ():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            site = os.path.dirname(os.path.dirname(spec.origin))
            return package, sorted(glob(f"{site}/{package}-*.dist-info"))
    return "", []


def incompatibility(platform: str, arch: str, have_arch: str, have_glibc: str | None) -> str | None:
    """Return what a wheel of a platform, such as "manylinux_2_35", needs that the machine lacks; None if it fits."""
    need = MANYLINUX.get(platform) or platform.partition("_")[2].replace("_", ".")
    if arch != have_arch:
        return f"{arch}, this machine is {have_arch}"
    if have_glibc is None:
        return f"glibc {need}, but this system has another C library"
    if version_numbers(have_glibc) < version_numbers(need):
        return f"glibc {need} or newer, but this system has {have_glibc}"
    return None


def install_advice(
    engine: str, arch: str, have_glibc: str | None, python: tuple[int, ...] = sys.version_info[:2]
) -> str:
    """Return the command that installs an engine's library, or why there is none."""
    wheel = _wheel(engine, arch)
    if wheel is None:
        return f"there is no wheel for {arch}"
    problem = incompatibility(f"manylinux_{wheel.glibc.replace('.', '_')}", arch, arch, have_glibc)
    if problem:
        return f"its wheel for {arch} needs {problem}: use a newer system"
    if wheel.last_python and python > version_numbers(wheel.last_python):
        return f"its last wheel for {arch} is for Python {wheel.last_python}: create an environment with that version"
    return f"pip install 'edgekit-runtime[{wheel.extra}]'"


def _wheel(engine: str, arch: str) -> Wheel | None:
    fields = engine_module(engine).WHEELS.get(arch)
    return fields and Wheel(*fields)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:  # packages of Linux distributions have no such file
        return ""
