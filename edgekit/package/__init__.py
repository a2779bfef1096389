"""Packages for firmware and update servers: one file a format, and one line in the table below.

A format's module has one function, and some have a second one:

    write(request, contents, out) -> notes       write the package to ``out``, which does not exist yet
    board_files(request) -> {path: BoardFile}    what a board must have before it can take such packages

``docs/packaging.md`` says what each package does on a board.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.package.bundle_contents import read_contents
from edgekit.package.request import BoardFile, PackageRequest
from edgekit_runtime.errors import PlanError, ToolchainError


@dataclass(frozen=True)
class PackageFormat:
    """A kind of package."""

    description: str
    suffix: str  # of the file it writes; "" where it writes a folder
    programs: tuple[str, ...] = ()  # programs
    options: tuple[str, ...] = ()  # options that not every format takes
    required: tuple[str, ...] = ()  # those of them that it cannot do without


FORMATS = {
    "rauc": PackageFormat(
        "RAUC bundle: a squashfs image for a pair of slots, or a tree for an artifact repository",
        ".raucb",
        ("rauc", "mksquashfs"),
        ("compatible", "key", "cert", "slot", "repository"),
        ("compatible", "key", "cert"),
    ),
    "swupdate": PackageFormat(
        "SWUpdate image: a file that is replaced in one step",
        ".swu",
        (),
        ("compatible", "key", "cert", "path", "store"),
        ("compatible",),
    ),
    "mender": PackageFormat(
        "Mender artifact for the update module `edgekit`, which installs into a store",
        ".mender",
        ("mender-artifact",),
        ("compatible", "key", "store"),
        ("compatible",),
    ),
    "deb": PackageFormat("Debian package that installs into a store", ".deb", (), ("path", "store", "systemd")),
    "oci": PackageFormat("OCI image layout with the bundle as an artifact, for registries", ""),
    "tar": PackageFormat("root file system overlay", ".tar", (), ("path",)),
    "yocto": PackageFormat("recipe for Yocto", "", (), ("path",)),
    "buildroot": PackageFormat("package for Buildroot", "", (), ("path",)),
    "c-array": PackageFormat("C header and source for TFLite Micro", "", (), ("variant",)),
}
MODULES = {name: f"edgekit.package.{name.replace('-', '_')}" for name in FORMATS}


@dataclass(frozen=True)
class Package:
    """What was written."""

    path: str
    format: str
    name: str
    version: str
    size_bytes: int
    notes: tuple[str, ...] = ()


def package(kind: str, request: PackageRequest, out: str | Path, board: str | Path | None = None) -> Package:
    """Write a package whole, or leave ``out`` as it was.

    Every digest of the bundle is held against its file first.

    Args:
        kind: a key of FORMATS.
        request: what to package, and for whom.
        out: the file to write, or a folder that does not exist yet.
        board: write what a board must have once into this folder as well.

    Raises:
        PlanError: the format wants another option, does not take one, or ``out`` cannot be written.
        BundleError: the bundle is damaged.
        ToolchainError: a program is missing, or refused.
    """
    _check(kind, request)
    target = Path(out)
    if not FORMATS[kind].suffix and target.exists():
        raise PlanError(f"{target} is there already: remove it, or name another folder")
    module = import_module(MODULES[kind])
    files = _board_files(kind, module, request, Path(board)) if board is not None else {}
    with read_contents(request.bundle) as contents, _replace_when_complete(target) as temporary:
        notes = tuple(module.write(request, contents, temporary))
        _write_board_files(files)
    size_bytes = sum(path.stat().st_size for path in (target, *target.rglob("*")) if path.is_file())
    return Package(str(target), kind, request.name, request.version, size_bytes, notes)


def _check(kind: str, request: PackageRequest) -> None:
    """Refuse what the format has no use for, and ask for what it cannot do without."""
    known = FORMATS[kind]
    given = {name for name in OPTIONS if getattr(request, name)}
    for name in sorted(given - set(known.options)):
        takers = ", ".join(other for other, each in FORMATS.items() if name in each.options)
        raise PlanError(f"--{name} says nothing to --format {kind}, only to {takers}: leave it out")
    for name in known.required:
        if name not in given:
            raise PlanError(f"--format {kind} needs --{name}: {OPTIONS[name]}")
    if ("cert" in given) != ("key" in given) and "cert" in known.options:
        raise PlanError("--key and --cert go together: the private key that signs, and its certificate")


# What formats ask for, and what it is, for people.
OPTIONS = {
    "compatible": "what the boards call themselves; docs/packaging.md says where they do",
    "key": "the private key that signs, a PEM file",
    "cert": "the certificate of that key, a PEM file",
    "path": "where the bundle goes on the board",
    "store": "where generations are kept on the board",
    "slot": "the slot class of RAUC that takes the image",
    "repository": "the artifact repository of RAUC that takes the tree",
    "systemd": "a unit that checks the model when the board starts",
    "variant": "which of the bundle's variants",
}


@contextmanager
def _replace_when_complete(target: Path) -> Iterator[Path]:
    """A place beside ``target`` that becomes it in one step, or is gone."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    except OSError as error:
        raise PlanError(f"{target} cannot be written: {error.strerror}: make its folder, or name another") from error
    try:
        yield folder / target.name
        (folder / target.name).replace(target)
    except OSError as error:
        raise ToolchainError(
            f"{target} cannot be written: {error.filename or target}: {error.strerror or error}", stage="package"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _board_files(kind: str, module: Any, request: PackageRequest, folder: Path) -> Mapping[Path, BoardFile]:
    """What a board must have, by where it goes; nothing of it is written over another file."""
    if not hasattr(module, "board_files"):
        raise PlanError(f"--format {kind} needs nothing on the board: leave --board-files out")
    files = {folder / path: file for path, file in module.board_files(request).items()}
    for path, file in files.items():
        if path.exists() and not (path.is_file() and path.read_bytes() == file.text.encode()):
            raise PlanError(f"{path} is there already with other content: remove it, or name another folder")
    return files


def _write_board_files(files: Mapping[Path, BoardFile]) -> None:
    try:
        for path, file in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            path.chmod(file.mode)
    except OSError as error:
        raise PlanError(f"--board-files: {error.filename}: {error.strerror}: name another folder") from error
