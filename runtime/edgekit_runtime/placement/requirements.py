"""Check what a variant requires of the machine and of its engine's library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import IncompatibleDevice
from edgekit_runtime.host.machine import architecture, total_memory_bytes, version_numbers

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant


def check_machine(variant: Variant) -> None:
    """Check the variant's requirements against this machine.

    Raises:
        IncompatibleDevice: a requirement is not met; the message names it.
    """
    check_requirements(variant, architecture(), total_memory_bytes())


def check_requirements(variant: Variant, arch: str, have_bytes: int | None) -> None:
    """Check the variant's requirements against a described machine.

    Args:
        variant: the variant to run.
        arch: the machine's architecture, as ``architecture`` returns it there.
        have_bytes: the machine's memory; None if it is unknown.

    Raises:
        IncompatibleDevice: a requirement is not met; the message names it.
    """
    wanted = variant.requirements
    if wanted.arch and arch not in wanted.arch:
        raise IncompatibleDevice(f"is made for {' or '.join(wanted.arch)}, this machine is {arch}")
    if wanted.memory_bytes is not None and have_bytes is not None and have_bytes < wanted.memory_bytes:
        raise IncompatibleDevice(
            f"needs {wanted.memory_bytes >> 20} MiB of memory, this machine has {have_bytes >> 20}"
        )


def check_library(variant: Variant, name: str, level: str) -> None:
    """Check the version of the engine's library against the lowest that the variant requires.

    Args:
        variant: the variant to run.
        name: the library's name and version, for the message.
        level: the library's version, in the numbering of ``Requirements.engine_version``.

    Raises:
        IncompatibleDevice: the library is too old.
    """
    lowest = variant.requirements.engine_version
    if lowest is not None and version_numbers(level) < version_numbers(lowest):
        raise IncompatibleDevice(
            f"needs {variant.engine} {lowest} or newer, but {name} is installed: update the library"
        )
