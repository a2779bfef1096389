"""The record of a toolchain: the packages that share one child process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Toolchain:
    """A set of packages that share one child process."""

    modules: tuple[str, ...]  # import names; all must be installed
    packages: tuple[str, ...]  # distributions whose versions are part of a cache key
    extras: tuple[str, ...]  # pip install 'edgekit[extra]': any of them installs all packages
    warm: str = ""  # module of ours whose import takes long; the worker imports it before it is needed
