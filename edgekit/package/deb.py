"""A Debian package with the bundle as a file, and maintainer scripts that install it into a store."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from edgekit.package.board_scripts import FIND_RUNTIME
from edgekit.package.bundle_contents import BundleContents
from edgekit.package.request import READ_ONLY_FOLDER, PackageRequest, epoch
from edgekit.package.tar import Member, write_tar

# dpkg may install into another root folder, DPKG_ROOT.
POSTINST = """\
#!/bin/sh
# Install the bundle into its store as a new generation, on trial. Running applications keep their generation.
set -e
if [ "$1" = configure ]; then
    {runtime}
    runtime install ${{EDGEKIT_INSTALL:-}} "${{DPKG_ROOT:-}}{path}" "${{DPKG_ROOT:-}}{store}"
fi
{systemd}"""
POSTRM = """\
#!/bin/sh
# Removing the package keeps the store, which an application may still use. Purging removes the store, but no other
# files in its folder.
set -e
if [ "$1" = purge ]; then
    store="${{DPKG_ROOT:-}}{store}"
    if [ -d "$store/generations" ]; then
        for name in generations current current.new state.json state.json.new; do
            rm -rf "$store/$name"
        done
        rmdir "$store" 2>/dev/null || true # stays if it is a link, or has other files
    fi
fi
{systemd}"""
UNIT = """\
# Runs before the application, which declares After={package}.service: counts a start of the generation on trial,
# checks it, and commits it or rolls back.
[Unit]
Description=Check the model {name} and commit it or roll back
RequiresMountsFor={store}

[Service]
Type=oneshot
EnvironmentFile=-/etc/default/edgekit
ExecStart=/bin/sh -c 'exec "$${{EDGEKIT_PYTHON:-python3}}" -m edgekit_runtime boot {store}'

[Install]
WantedBy=multi-user.target
"""


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write the package. The same bundle gives the same bytes."""
    name = f"edgekit-model-{request.name}"
    path = request.path or f"{READ_ONLY_FOLDER}/{request.file_name}"
    unit = f"{name}.service"
    files = [Member(path[1:], contents)]
    if request.systemd:
        text = UNIT.format(name=request.name, package=name, store=request.store_path)
        files.append(Member(f"lib/systemd/system/{unit}", text.encode()))
    control = _control(request, contents, name, path, files)
    with out.open("wb") as file:
        file.write(b"!<arch>\n")
        file.write(_header("debian-binary", 4) + b"2.0\n")
        _add_tar_gz(file, "control.tar.gz", control)
        _add_tar_gz(file, "data.tar.gz", files)
    return [f"installs into {request.store_path}: applications load({request.store_path!r})"]


def _control(
    request: PackageRequest, contents: BundleContents, name: str, path: str, files: list[Member]
) -> list[Member]:
    """Return the control files for dpkg."""
    text = "\n".join(
        [
            f"Package: {name}",
            f"Version: {request.version}",
            "Architecture: all",
            "Maintainer: edgekit <edgekit@localhost>",
            f"Installed-Size: {-(-sum(file.size_bytes for file in files) // 1024)}",
            "Depends: python3 (>= 3.9)",
            "Section: misc",
            "Priority: optional",
            f"Description: the model {contents.manifest.model_name} as an edgekit bundle",
            f" Made of {len(contents.manifest.variants)} variants; installed into {request.store_path}.",
            "",
        ]
    )
    sums = "".join(f"{_md5(file)}  {file.path}\n" for file in files)
    enable = _systemd("enable", name) if request.systemd else ""
    disable = _systemd("disable", name) if request.systemd else ""
    runtime = FIND_RUNTIME.replace("\n", "\n    ").rstrip()
    postinst = POSTINST.format(runtime=runtime, path=path, store=request.store_path, systemd=enable)
    postrm = POSTRM.format(store=request.store_path, systemd=disable)
    return [
        Member("control", text.encode()),
        Member("md5sums", sums.encode()),
        Member("postinst", postinst.encode(), 0o755),
        Member("postrm", postrm.encode(), 0o755),
    ]


def _systemd(verb: str, name: str) -> str:
    when = "configure" if verb == "enable" else "remove"
    return (
        f'if [ "$1" = {when} ] && [ -z "${{DPKG_ROOT:-}}" ] && [ -d /run/systemd/system ]; then\n'
        f"    systemctl daemon-reload && systemctl {verb} {name}.service || true\nfi\n"
    )


def _md5(file: Member) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # dpkg --verify compares it
    for chunk in file.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _add_tar_gz(file: BinaryIO, name: str, members: Iterable[Member]) -> None:
    """Add a compressed archive. It is written to a temporary file, because its size comes first."""
    with tempfile.TemporaryFile() as packed:
        with gzip.GzipFile("", "wb", mtime=epoch(), fileobj=packed) as compressed:
            write_tar(cast("BinaryIO", compressed), members, prefix="./")
        size_bytes = packed.tell()
        packed.seek(0)
        file.write(_header(name, size_bytes))
        shutil.copyfileobj(packed, file)
        file.write(b"\n" * (size_bytes % 2))


def _header(name: str, size_bytes: int) -> bytes:
    """Return the header of a member of the ar archive."""
    return f"{name:<16}{epoch():<12}{0:<6}{0:<6}{'100644':<8}{size_bytes:<10}`\n".encode()
