"""A root file system overlay: the bundle as a folder, so that a board maps its weights where they lie."""

from __future__ import annotations

from pathlib import Path

from edgekit.package.bundle_contents import Contents
from edgekit.package.request import FIXED_FOLDER, Request
from edgekit.package.tarball import tree, write_tar


def write(request: Request, contents: Contents, out: Path) -> list[str]:
    """Write a tar archive that is unpacked over a root file system."""
    where = request.path or f"{FIXED_FOLDER}/{request.name}"
    with out.open("wb") as file:
        write_tar(file, tree(contents, f"{where[1:]}/"))
    return [f"unpack it over the root file system; applications load({where!r})"]
