"""Check before an installation that a bundle fits the board, and that it is a newer version of the same model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgekit_runtime.errors import IncompatibleDevice, NotAnUpdate
from edgekit_runtime.host.machine import architecture
from edgekit_runtime.placement.requirements import check_machine, check_requirements

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Manifest, Variant

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)[-._]?([^+]*)(?:\+.*)?")  # release, pre-release, build
_PART = re.compile(r"\d+|[^\d.]+")

Key = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def check_board(manifest: Manifest, device: str | None = None, other: tuple[str, int | None] | None = None) -> None:
    """Refuse a bundle that has no variant for this machine.

    Args:
        manifest: the manifest of the bundle.
        device: the device profile of this board; the bundle must be made for it. None: one of the bundle's profiles,
            if it has any, must have this machine's architecture.
        other: architecture and memory in bytes of another machine to check instead of this one.

    Raises:
        IncompatibleDevice: the bundle is not for this board.
    """
    archs = {str(profile["name"]): str(profile.get("arch")) for profile in manifest.devices}
    model, here = manifest.model_name, other[0] if other else architecture()
    if device is not None and device not in archs:
        raise IncompatibleDevice(
            f"{model!r} is made for {_names(archs)}, not for {device}: choose the bundle for that device"
        )
    if archs and here not in archs.values():
        raise IncompatibleDevice(
            f"{model!r} is made for {_names(archs)}, this machine is {here}: choose another bundle"
        )
    reasons = [reason for reason in (_problem(variant, other) for variant in manifest.variants) if reason]
    if len(reasons) == len(manifest.variants):
        raise IncompatibleDevice(f"no variant of {model!r} can run on this machine ({here}): " + "; ".join(reasons))


def _names(archs: dict[str, str]) -> str:
    return ", ".join(f"{name} ({arch})" for name, arch in archs.items()) or "no device in particular"


def _problem(variant: Variant, other: tuple[str, int | None] | None) -> str:
    try:
        check_requirements(variant, *other) if other else check_machine(variant)
    except IncompatibleDevice as error:
        return f"{variant.name} {error}"
    return ""


def check_update(new: Manifest, have: Manifest, *, allow_downgrade: bool, allow_other_model: bool) -> None:
    """Refuse a bundle that is not an update of the current generation.

    Raises:
        NotAnUpdate: it is of another model, has an older version, or a version that cannot be compared.
    """
    if new.model_name != have.model_name:
        if allow_other_model:
            return
        raise NotAnUpdate(
            f"the store has {have.model_name!r}, this is {new.model_name!r}: install into its own store, or allow "
            "another model"
        )
    if allow_downgrade or new.model_version == have.model_version:
        return
    keys = version_key(new.model_version), version_key(have.model_version)
    if keys[0] is None or keys[1] is None:
        raise NotAnUpdate(
            f"{new.model_name!r}: version {new.model_version!r} cannot be compared with {have.model_version!r}: "
            "use versions such as 1.2.3, or allow a downgrade"
        )
    if keys[0] < keys[1]:
        raise NotAnUpdate(
            f"{new.model_name!r} {new.model_version} is older than {have.model_version}, which the store has: allow a "
            "downgrade to install it"
        )


def version_key(version: str) -> Key | None:
    """Return the sort key of a version; None if it does not start with a number.

    ``1.2`` is 1.2.0, older than 1.10, newer than 1.2-rc1 and 1.2rc1; the part after a ``+`` is ignored, as in
    semver.org's precedence (section 11).
    """
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        return None
    release = [int(part[:20]) for part in found[1].split(".")]
    while release and not release[-1]:
        release.pop()
    before = tuple(
        (not part.isdecimal(), int(part[:20]) if part.isdecimal() else 0, part) for part in _PART.findall(found[2])
    )
    return tuple(release), not before, before
