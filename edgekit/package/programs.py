"""Run external programs such as rauc, quietly; name the Debian package of a missing one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from edgekit.package.request import epoch
from edgekit_runtime.errors import ToolchainError

# program -> its Debian package
PACKAGES = {
    "mender-artifact": "mender-artifact",
    "mksquashfs": "squashfs-tools",
    "openssl": "openssl",
    "rauc": "rauc",
}
LAST_LINES = 5


def require_programs(*programs: str) -> None:
    """Check that programs are installed.

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
    """Run a program and return its output. It gets ``SOURCE_DATE_EPOCH`` to date files.

    Raises:
        ToolchainError: the program is missing or failed; the message has the last lines of its output.
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
        output = "\n".join(done.stdout.strip().splitlines()[-LAST_LINES:])
        raise ToolchainError(f"exit code {done.returncode}:\n{output}", stage="package", subject=program)
    return done.stdout
