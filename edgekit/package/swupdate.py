"""A SWUpdate image: a cpio archive with a signed sw-description that replaces the bundle on the board in one step.

Format: https://sbabic.github.io/swupdate/sw-description.html. Debian's swupdate verifies CMS signatures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgekit.package.board_scripts import FIND_RUNTIME
from edgekit.package.bundle_contents import BundleContents
from edgekit.package.programs import require_programs, run
from edgekit.package.request import STATE_FOLDER, BoardFile, PackageRequest, epoch
from edgekit.package.tar import Member
from edgekit_runtime.errors import PlanError

# Runs after the file was replaced, if the application opens a store.
INSTALL = """\
#!/bin/sh
# Install the bundle into its store as a new generation, on trial. Running applications keep their generation.
set -e
{runtime}
runtime install ${{EDGEKIT_INSTALL:-}} {path} {store}
"""
SCRIPT_NAME = "install-into-store.sh"
BOARD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*:[!-~]+")  # a name of libconfig, and a word of /etc/hwrevision


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write the image. Without a key it is not signed, and boards that require signatures refuse it."""
    boards = _boards(request)
    if request.key:
        require_programs("openssl")
    members = [Member(request.file_name, contents)]
    if request.store:
        script = INSTALL.format(runtime=FIND_RUNTIME.rstrip(), path=_path(request), store=request.store)
        members.append(Member(SCRIPT_NAME, script.encode(), 0o755))
    description = _description(request, boards, members).encode()
    head = [Member("sw-description", description)]
    if request.key and request.cert:
        head.append(Member("sw-description.sig", _sign(description, request.key, request.cert, out.parent)))
    with out.open("wb") as file:
        for number, member in enumerate([*head, *members], 1):
            _member(file, member, number)
        _header(file, "TRAILER!!!", 0, 0, 0)
        file.write(bytes(-file.tell() % 512))
    unsigned = [] if request.key else ["not signed: boards that require signatures refuse it: give --key and --cert"]
    return [f"replaces {_path(request)} on {', '.join(f'{name} {revision}' for name, revision in boards)}", *unsigned]


def board_files(request: PackageRequest) -> dict[str, BoardFile]:
    """Return the board's name, revision and software versions, which swupdate compares."""
    name, revision = _boards(request)[0]
    return {
        "etc/hwrevision": BoardFile(f"{name} {revision}\n"),
        "etc/sw-versions": BoardFile(f"{request.name} 0\n"),
    }


def _path(request: PackageRequest) -> str:
    return request.path or f"{STATE_FOLDER}/{request.file_name}"


def _boards(request: PackageRequest) -> list[tuple[str, str]]:
    """Return name and revision of each board, as in its /etc/hwrevision.

    Raises:
        PlanError: a revision is missing, or a name is invalid in libconfig's syntax.
    """
    for text in request.compatible:
        if not BOARD.fullmatch(text) or text.startswith("version:"):
            raise PlanError(
                f"--compatible {text!r}: SWUpdate needs NAME:REVISION, as in the board's /etc/hwrevision: a letter, "
                "then letters, digits, '-' and '_'; and a revision without spaces"
            )
    pairs = [text.partition(":") for text in request.compatible]
    return [(name, revision) for name, _, revision in pairs]


def _description(request: PackageRequest, boards: list[tuple[str, str]], members: list[Member]) -> str:
    """Return the sw-description. All entries are under board names, so that other boards find none."""
    digests = {member.path: _sha256(member) for member in members}
    scripts = ""
    if request.store:
        entry = _group(filename=SCRIPT_NAME, type="postinstall", sha256=digests[SCRIPT_NAME])
        scripts = f"\n        scripts: ( {entry} );"
    file = _group(
        filename=request.file_name,
        path=_path(request),
        name=request.name,
        version=request.version,
        sha256=digests[request.file_name],
        **{"install-if-different": True},
        properties={"create-destination": "true", "atomic-install": "true"},
    )
    revisions: dict[str, list[str]] = {}
    for name, revision in boards:
        revisions.setdefault(name, []).append(revision)
    sections = "".join(
        f"    {name} = {{\n        hardware-compatibility: [ {', '.join(json.dumps(each) for each in known)} ];\n"
        f"        files: ( {file} );{scripts}\n    }};\n"
        for name, known in revisions.items()
    )
    return f"software = {{\n    version = {json.dumps(request.version)};\n{sections}}};\n"


def _group(**pairs: str | bool | dict[str, str]) -> str:
    """Return a group in libconfig's syntax."""
    parts = (
        f"{name} = {_group(**value) if isinstance(value, dict) else json.dumps(value)};"
        for name, value in pairs.items()
    )
    return f"{{ {' '.join(parts)} }}"


def _sign(description: bytes, key: Path, cert: Path, folder: Path) -> bytes:
    """Return the CMS signature, without attributes, so that signatures with RSA keys are reproducible."""
    plain, signature = folder / "sw-description", folder / "sw-description.sig"
    plain.write_bytes(description)
    options = ("-outform", "DER", "-nosmimecap", "-noattr", "-binary")
    run("openssl", "cms", "-sign", "-in", plain, "-out", signature, "-signer", cert, "-inkey", key, *options)
    return signature.read_bytes()


def _sha256(member: Member) -> str:
    digest = sha256()
    for chunk in member.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _member(file: BinaryIO, member: Member, number: int) -> None:
    """Write a file of a cpio archive of type "crc", whose checksum is the sum of the bytes."""
    checksum = sum(int(np.frombuffer(chunk, np.uint8).sum(dtype=np.uint64)) for chunk in member.chunks())
    _header(file, member.path, number, member.size_bytes, checksum & 0xFFFFFFFF, 0o100000 | member.mode)
    for chunk in _padded(member):
        file.write(chunk)


def _padded(member: Member) -> Iterator[bytes]:
    yield from member.chunks()
    yield bytes(-member.size_bytes % 4)


def _header(file: BinaryIO, name: str, number: int, size_bytes: int, checksum: int, mode: int = 0) -> None:
    fields = (number, mode, 0, 0, 1, epoch() if number else 0, size_bytes, 0, 0, 0, 0, len(name) + 1, checksum)
    head = b"070702" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    file.write(head + bytes(-len(head) % 4))
