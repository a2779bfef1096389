"""Check that a generation is intact, and that it works. The latter runs in a child process, which may crash or hang."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

from edgekit_runtime.bundle.reader import read_bundle
from edgekit_runtime.bundle.temp_folder import TempFolder
from edgekit_runtime.errors import BundleError
from edgekit_runtime.host.subprocesses import describe_exit, end_child, last_line, start_child

if TYPE_CHECKING:
    from edgekit_runtime.trust.policy import Trust

TIMEOUT_S = 300.0


def is_intact(folder: str, trust: Trust = None) -> bool:
    """Return whether a generation exists, all digests match, and ``open_bundle`` trusts it."""
    try:
        with read_bundle(folder, trust) as bundle:
            bundle.verify_all()
    except BundleError:
        return False
    return True


def self_check(folder: str, timeout_s: float = TIMEOUT_S) -> str:
    """Run ``verify`` on a generation: all digests, and the golden outputs of all variants that can run here.

    Returns:
        What failed; empty if nothing did.
    """
    scratch = TempFolder()
    try:
        with tempfile.TemporaryFile() as noise:
            child = start_child("edgekit_runtime", noise, scratch.path, "verify", os.path.abspath(folder))
            try:
                child.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return f"the self-check took longer than {timeout_s:g} s"
            finally:
                end_child(child)
            if child.returncode == 0:
                return ""
            return f"the self-check failed: {describe_exit(child.returncode)}{last_line(noise)}"
    finally:
        scratch.remove()
