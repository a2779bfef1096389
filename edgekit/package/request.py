"""The request for a package: the bundle, and names that are valid in all formats."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import PlanError

STATE_FOLDER = "/var/lib/edgekit"  # on a board, for data that changes
READ_ONLY_FOLDER = "/usr/share/edgekit"  # on a board, for data that is part of its image
EARLIEST_EPOCH = 315532800  # 1980-01-01, the date of the files in a bundle
LATEST_EPOCH = (1 << 32) - 1  # in 2106: gzip and cpio store 32 bits


@dataclass(frozen=True)
class PackageRequest:
    """A bundle and the options of its package."""

    bundle: Path
    name: str  # of the package: lower-case letters, digits, "+", "-" and "."
    version: str  # in Debian's syntax, which is valid in all formats
    compatible: tuple[str, ...] = ()
    key: Path | None = None
    cert: Path | None = None
    path: str = ""
    store: str = ""
    slot: str = ""
    repository: str = ""
    variant: str = ""
    systemd: bool = False

    @property
    def file_name(self) -> str:
        """The file name of the bundle in the package."""
        return f"{self.name}.edgekit"

    @property
    def store_path(self) -> str:
        """The path of the store on the board."""
        return self.store or f"{STATE_FOLDER}/{self.name}"


@dataclass(frozen=True)
class BoardFile:
    """A file that a board needs before it can install packages of a format."""

    text: str
    mode: int = 0o644


def make_request(bundle: str | Path, name: str = "", version: str = "", **options: object) -> PackageRequest:
    """Return a checked request. Name and version are by default those of the model.

    Raises:
        BundleError: there is no bundle at the path, or it breaks the format.
        PlanError: a name, version, path, board name or key is invalid in every format.
    """
    with open_bundle(bundle, trust=False) as opened:
        model = opened.manifest
    name = name or re.sub(r"[^a-z0-9+.]+", "-", model.model_name.lower()).strip("-.+")
    version = version or model.model_version
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]{1,60}", name):
        raise PlanError(f"{name!r} is not a package name: give --name, of lower-case letters, digits, '+', '-' and '.'")
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~]{0,60}", version):
        raise PlanError(
            f"{version!r} is not a package version: give --version, a digit first, then letters, digits, . + ~"
        )
    request = PackageRequest(Path(bundle), name, version, **options)  # type: ignore[arg-type]
    for option in ("path", "store"):
        path = getattr(request, option)
        if path and not re.fullmatch(r"(/[A-Za-z0-9_@+=][A-Za-z0-9_@+=.-]*)+", path):
            raise PlanError(f"--{option} {path}: give an absolute path on the board, of plain names")
    for board in request.compatible:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", board) or "\\" in board:
            raise PlanError(f"--compatible {board!r}: give the name of the boards, one line of plain text")
    for option in ("key", "cert"):
        file: Path | None = getattr(request, option)
        if file is not None and not file.is_file():
            raise PlanError(f"--{option} {file}: there is no such file")
    return request


def epoch() -> int:
    """Return the date of all files in a package, in seconds since 1970: SOURCE_DATE_EPOCH, or 1980-01-01.

    Raises:
        PlanError: SOURCE_DATE_EPOCH is out of range.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", str(EARLIEST_EPOCH))
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > LATEST_EPOCH:
        raise PlanError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds from 1970 to 2106: correct or unset it")
    return int(text)
