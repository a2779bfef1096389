"""Packages for updaters, distributions and registries: one module per format, and one row in ``FORMATS``.

The module of a format has one or two functions:

    write(request, contents, out) -> notes       write the package to ``out``, which does not exist yet
    board_files(request) -> {path: BoardFile}    files that a board needs before it can install such packages

docs/packaging.md describes what each package does on a board.
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
    """A package format."""

    description: str
    suffix: str  # of the file; "" if the package is a folder
    programs: tuple[str, ...] = ()  # that it calls
    options: tuple[str, ...] = ()  # format-specific options that it accepts
    required: tuple[str, ...] = ()  # those that it requires


FORMATS = {
    "rauc": PackageFormat(
        "RAUC bundle: a squashfs image for a pair of slots, or a tree for an artifact repository",
        ".raucb",
        ("rauc", "mksquashfs"),
        ("compatible", "key", "cert", "slot", "repository"),
        ("compatible", "key", "cert"),
    ),
    "swupdate": PackageFormat(
        "SWUpdate image that replaces the bundle file in one step",
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
    """A package that was written."""

    path: str
    format: str
    name: str
    version: str
    size_bytes: int
    notes: tuple[str, ...] = ()


def package(kind: str, request: PackageRequest, out: str | Path, board: str | Path | None = None) -> Package:
    """Write a package completely, or leave ``out`` as it was.

    All digests of the bundle are checked first.

    Args:
        kind: a key of FORMATS.
        request: the bundle and the options.
        out: the file to write, or a new folder.
        board: also write the files that a board needs once into this folder.

    Raises:
        PlanError: an option is missing or not accepted by the format, or ``out`` cannot be written.
        BundleError: the bundle is damaged.
        ToolchainError: a program is missing or failed.
    """
    _check(kind, request)
    target = Path(out)
    if not FORMATS[kind].suffix and target.exists():
        raise PlanError(f"{target} exists already: remove it, or choose another folder")
    module = import_module(MODULES[kind])
    files = _board_files(kind, module, request, Path(board)) if board is not None else {}
    with read_contents(request.bundle) as contents, _replace_when_complete(target) as temporary:
        notes = tuple(module.write(request, contents, temporary))
        _write_board_files(files)
    size_bytes = sum(path.stat().st_size for path in (target, *target.rglob("*")) if path.is_file())
    return Package(str(target), kind, request.name, request.version, size_bytes, notes)


def _check(kind: str, request: PackageRequest) -> None:
    """Check that the format accepts all options, and that none it requires is missing."""
    package_format = FORMATS[kind]
    used = {name for name in OPTIONS if getattr(request, name)}
    for name in sorted(used - set(package_format.options)):
        accepting = ", ".join(other for other, each in FORMATS.items() if name in each.options)
        raise PlanError(f"--format {kind} does not accept --{name}, only {accepting} do: leave it out")
    for name in package_format.required:
        if name not in used:
            raise PlanError(f"--format {kind} needs --{name}: {OPTIONS[name]}")
    if ("cert" in used) != ("key" in used) and "cert" in package_format.options:
        raise PlanError("--key and --cert go together: the private key that signs, and its certificate")


# Format-specific options, explained for messages.
OPTIONS = {
    "compatible": "the name of the boards; docs/packaging.md says where they set it",
    "key": "the private key that signs, a PEM file",
    "cert": "the certificate of that key, a PEM file",
    "path": "the path of the bundle on the board",
    "store": "the path of the store on the board",
    "slot": "the RAUC slot class for the image",
    "repository": "the RAUC artifact repository for the tree",
    "systemd": "a unit that checks the model when the board starts",
    "variant": "the variant of the bundle",
}


@contextmanager
def _replace_when_complete(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``target``; rename it to ``target`` if the block succeeds, else remove it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    except OSError as error:
        raise PlanError(
            f"{target} cannot be written: {error.strerror}: create its folder, or choose another"
        ) from error
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
    """Return the files that a board needs, by path, after checking that none would overwrite a different file."""
    if not hasattr(module, "board_files"):
        raise PlanError(f"--format {kind} needs nothing on the board: leave --board-files out")
    files = {folder / path: file for path, file in module.board_files(request).items()}
    for path, file in files.items():
        if path.exists() and not (path.is_file() and path.read_bytes() == file.text.encode()):
            raise PlanError(f"{path} exists already with other content: remove it, or choose another folder")
    return files


def _write_board_files(files: Mapping[Path, BoardFile]) -> None:
    try:
        for path, file in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            path.chmod(file.mode)
    except OSError as error:
        raise PlanError(f"--board-files: {error.filename}: {error.strerror}: choose another folder") from error
