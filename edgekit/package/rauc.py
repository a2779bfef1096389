"""A RAUC bundle: a squashfs image of the bundle for a slot, or its tree for an artifact repository.

A slot's image is mounted by the board, and the application opens the mount point. Artifact repositories came with
RAUC 1.13; their manifest differs only in the name of the image.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.package.bundle_contents import BundleContents
from edgekit.package.programs import require_programs, run
from edgekit.package.request import STATE_FOLDER, BoardFile, PackageRequest
from edgekit.package.tar import folder_members, write_tar
from edgekit_runtime.errors import PlanError

SLOT = "model"
MANIFEST = """\
[update]
compatible={compatible}
version={version}
description=the model {model}

[bundle]
format=verity

[image.{image}]
filename={filename}
"""
SLOTS = """\
# Append to /etc/rauc/system.conf: a pair of slots for the model, next to a root file system in the slots rootfs.0 and
# rootfs.1. Mount the slot of the running system read-only; the application opens the mount point.
[slot.{slot}.0]
device=/dev/disk/by-partlabel/{slot}-a
type=raw
parent=rootfs.0

[slot.{slot}.1]
device=/dev/disk/by-partlabel/{slot}-b
type=raw
parent=rootfs.1
"""
REPOSITORY = """\
# Append to /etc/rauc/system.conf, for RAUC 1.13 and newer: each model is replaced in one step while the system runs.
# The application opens {path}/{name}.
[artifacts.{repository}]
path={path}
type=trees
"""
# No compression: the image is compressed already, and RAUC refuses bundles of one block.
MKSQUASHFS_OPTIONS = "-noI -noD -noF -noX -all-root -no-xattrs"


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write and sign the RAUC bundle. RAUC adds a random salt and the time of the signature."""
    compatible, repository = _compatible(request), _repository(request)
    require_programs("rauc", "mksquashfs")
    content = out.parent / "content"
    content.mkdir()
    filename = f"{request.name}.{'tar' if repository else 'squashfs'}"
    if repository:
        with (content / filename).open("wb") as file:
            write_tar(file, folder_members(contents), prefix="./")
    else:
        _squash(contents, out.parent / "tree", content / filename)
    manifest = MANIFEST.format(
        compatible=compatible,
        version=request.version,
        model=contents.manifest.model_name.replace("\\", "/"),  # which would start an escape sequence
        image=f"{repository}/{request.name}" if repository else _slot(request),
        filename=filename,
    )
    (content / "manifest.raucm").write_text(manifest, encoding="utf-8")
    assert request.key and request.cert  # required by FORMATS
    keys = (f"--key={request.key}", f"--cert={request.cert}")
    run("rauc", "bundle", *keys, f"--mksquashfs-args={MKSQUASHFS_OPTIONS}", content, out)
    if repository:
        return [f"goes into the artifact repository {repository!r}: RAUC 1.13 or newer"]
    return [f"goes into the slot class {_slot(request)!r}"]


def board_files(request: PackageRequest) -> dict[str, BoardFile]:
    """Return a part of RAUC's configuration."""
    if repository := _repository(request):
        where = {"path": f"{STATE_FOLDER}/{repository}", "name": request.name}
        text = REPOSITORY.format(repository=repository, **where)
    else:
        text = SLOTS.format(slot=_slot(request))
    return {"etc/rauc/edgekit-system.conf": BoardFile(text)}


def _compatible(request: PackageRequest) -> str:
    if len(request.compatible) != 1:
        raise PlanError("--compatible: RAUC takes one name, the `compatible` in /etc/rauc/system.conf of the boards")
    return request.compatible[0]


def _repository(request: PackageRequest) -> str:
    if request.repository and not re.fullmatch(r"[A-Za-z0-9_-]+", request.repository):
        raise PlanError(f"--repository {request.repository}: give the name of an artifact repository, such as models")
    if request.repository and "." in request.name:  # RAUC reads the part after a dot as a variant of the board
        raise PlanError(f"RAUC accepts no dots in artifact names such as {request.name!r}: give a --name without dots")
    return request.repository


def _slot(request: PackageRequest) -> str:
    name = request.slot or SLOT
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise PlanError(f"--slot {name}: give the name of a slot class, such as {SLOT}")
    return name


def _squash(contents: BundleContents, folder: Path, image: Path) -> None:
    """Write the squashfs image of the bundle, with one thread and one date, so that its bytes are reproducible."""
    contents.write_folder(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    options = ("-noappend", "-all-root", "-no-xattrs", "-quiet", "-no-progress", "-processors", "1")
    run("mksquashfs", folder, image, *options)
