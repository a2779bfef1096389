"""The programs that formats call: found or named with the package that brings them, quiet unless they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from edgekit.package.request import epoch
from edgekit_runtime.errors import ToolchainError

# program -> the Debian package that brings it
PACKAGES = {
    "mender-artifact": "mender-artifact",
    "mksquashfs": "squashfs-tools",
    "openssl": "openssl",
    "rauc": "rauc",
}
LAST_LINES = 5


def require_programs(*programs: str) -> None:
    """Make sure that programs are there before anything is done.

    Raises:
        ToolchainError: one is missing.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[program] for program in missing))
        raise ToolchainError(
            f"{', '.join(missing)} not installed",
            stage="package",
            subject=missing[0],
            advice=f"on Debian and Ubuntu: apt-get install {packages}",
        )


def run(program: str, *arguments: str | Path, folder: Path | None = None) -> str:
    """Run a program and give what it printed.

    It dates files by ``SOURCE_DATE_EPOCH``, where it knows that.

    Raises:
        ToolchainError: it is missing, or failed; the message has its last lines.
    """
    require_programs(program)
    done = subprocess.run(
        [program, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-LAST_LINES:])
        raise ToolchainError(f"ended with {done.returncode}:\n{said}", stage="package", subject=program)
    return done.stdout
