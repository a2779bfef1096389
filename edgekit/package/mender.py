"""A Mender artifact, and the update module that installs such artifacts into a store."""

from __future__ import annotations

import os
import tarfile
from importlib import resources
from pathlib import Path

from edgekit.package.bundle_contents import BundleContents
from edgekit.package.programs import require_programs, run
from edgekit.package.request import BoardFile, PackageRequest, epoch
from edgekit_runtime.errors import PlanError

MODULE = "edgekit"  # type of the payload, and name of the update module on the board
MODULE_PATH = f"usr/share/mender/modules/v3/{MODULE}"


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write the artifact for the device types in ``compatible``, signed if there is a key.

    It provides ``edgekit.NAME.version``, which replaces that of earlier artifacts of the same model.

    Raises:
        PlanError: mender-artifact cannot read this form of key.
    """
    require_programs("mender-artifact")
    _check_key(request)
    payload = out.parent / request.file_name
    contents.write_file(payload)
    store = out.parent / "store"
    store.write_text(f"{request.store_path}\n", encoding="utf-8")
    devices = [argument for name in request.compatible for argument in ("--device-type", name)]
    artifact = ("--type", MODULE, "--artifact-name", f"{request.name}-{request.version}")
    software = ("--software-filesystem", MODULE, "--software-name", request.name)
    plain = out.parent / "plain.mender"
    for file in (payload, store):
        os.utime(file, (epoch(), epoch()))
    run(
        "mender-artifact",
        *("write", "module-image", *artifact, *devices, *software, "--software-version", request.version),
        *("--file", payload, "--file", store, "--compression", "none", "--output-path", plain),
    )
    _redate(plain, out)
    if request.key:
        run("mender-artifact", "sign", out, "--key", request.key)
        out.chmod(0o644)  # it leaves a file that only its owner may read
    unsigned = [] if request.key else ["not signed: boards with an ArtifactVerifyKey refuse it: give --key"]
    return [f"installs into {request.store_path}; boards need /{MODULE_PATH}: --board-files writes it", *unsigned]


def board_files(request: PackageRequest) -> dict[str, BoardFile]:
    """Return the update module."""
    script = resources.files("edgekit.package").joinpath("mender_module.sh").read_text(encoding="utf-8")
    return {MODULE_PATH: BoardFile(script, 0o755)}


def _check_key(request: PackageRequest) -> None:
    if request.key and "BEGIN PRIVATE KEY" in request.key.read_text(encoding="utf-8", errors="replace"):
        raise PlanError(
            f"--key {request.key}: mender-artifact cannot read PKCS #8: "
            f"openssl pkey -traditional -in {request.key} -out mender-key.pem"
        )


def _redate(plain: Path, out: Path) -> None:
    """Copy the archive with one date for all members; mender-artifact writes the current time."""
    with tarfile.open(plain) as source, tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as target:
        for member in source:
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch(), 0, 0, "", ""
            target.addfile(member, source.extractfile(member))
