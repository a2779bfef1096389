"""What is to be packaged, and the names that every format understands."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import PlanError

FOLDER = "/var/lib/edgekit"  # on a board, what changes while it lives
FIXED_FOLDER = "/usr/share/edgekit"  # on a board, what came with its image
EARLIEST = 315532800  # 1980-01-01, the time of the files in a bundle
LATEST = (1 << 32) - 1  # in 2106: gzip and cpio have 32 bits for it


@dataclass(frozen=True)
class PackageRequest:
    """What is to be packaged, and for whom."""

    bundle: Path
    name: str  # of the package: lower-case letters, digits, "+", "-" and "."
    version: str  # as Debian's, which is what all formats understand
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
        """Of the bundle as a file."""
        return f"{self.name}.edgekit"

    @property
    def store_path(self) -> str:
        """Where generations are kept on the board."""
        return self.store or f"{FOLDER}/{self.name}"


@dataclass(frozen=True)
class BoardFile:
    """A file that a board must have before it can take packages of a format."""

    text: str
    mode: int = 0o644


def make_request(bundle: str | Path, name: str = "", version: str = "", **options: object) -> PackageRequest:
    """Name the package after the model, unless told otherwise.

    Raises:
        BundleError: there is no bundle, or it breaks the format.
        PlanError: a name, version, path, board or key that no format could take.
    """
    with open_bundle(bundle, trust=False) as opened:
        model = opened.manifest
    name = name or re.sub(r"[^a-z0-9+.]+", "-", model.model_name.lower()).strip("-.+")
    version = version or model.model_version
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]{1,60}", name):
        raise PlanError(f"{name!r} is no package name: give --name, of lower-case letters, digits, '+', '-' and '.'")
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~]{0,60}", version):
        raise PlanError(
            f"{version!r} is no package version: give --version, a digit first, then letters, digits, . + ~"
        )
    request = PackageRequest(Path(bundle), name, version, **options)  # type: ignore[arg-type]
    for what in ("path", "store"):
        where = getattr(request, what)
        if where and not re.fullmatch(r"(/[A-Za-z0-9_@+=][A-Za-z0-9_@+=.-]*)+", where):
            raise PlanError(f"--{what} {where}: give an absolute path on the board, of plain names")
    for board in request.compatible:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", board) or "\\" in board:
            raise PlanError(f"--compatible {board!r}: give what boards call themselves, one line of plain text")
    for what in ("key", "cert"):
        file: Path | None = getattr(request, what)
        if file is not None and not file.is_file():
            raise PlanError(f"--{what} {file}: there is no such file")
    return request


def epoch() -> int:
    """Seconds since 1970 that every file of a package is dated: SOURCE_DATE_EPOCH, or 1980-01-01.

    Raises:
        PlanError: SOURCE_DATE_EPOCH is no such number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", str(EARLIEST))
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > LATEST:
        raise PlanError(f"SOURCE_DATE_EPOCH is {text!r}, not the seconds from 1970 to 2106: repair or unset it")
    return int(text)
