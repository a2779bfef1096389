"""A private temporary folder.

It does not use ``tempfile``, which is slow to import and takes memory on the path of ``load``
(docs/decisions/0017-small-parts-of-our-own-on-the-board.md has the figures).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgekit_runtime.errors import EngineUnavailable

ADVICE = "make room, set TMPDIR, or unpack the bundle to a folder, which needs no temporary files"


class TempFolder:
    """A folder that only this user can read. ``remove`` deletes it, or the end of the process.

    Raises:
        EngineUnavailable: none of the system's temporary folders can be written.
    """

    def __init__(self) -> None:
        try:
            self.path = _make_folder()
        except OSError as error:
            raise EngineUnavailable(f"no temporary folder can be made: {error}: {ADVICE}") from error
        self._finish = weakref.finalize(self, _remove_tree, self.path)

    def write(self, path: str, fill: Callable[[Callable[[bytes], Any]], None]) -> str:
        """Write a file below the folder and return its path; ``fill`` is called with the function that writes.

        Raises:
            EngineUnavailable: the disk is full, or the file cannot be written.
        """
        target = os.path.join(self.path, *path.split("/"))
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                fill(file.write)
        except OSError as error:
            with suppress(OSError):
                os.unlink(target)  # so that a smaller file may still fit
            why = error.strerror or error
            raise EngineUnavailable(f"{path} cannot be written to {self.path}: {why}: {ADVICE}") from error
        return target

    def link(self, path: str, target: str) -> str:
        """Make a symbolic link below the folder and return its path.

        Raises:
            EngineUnavailable: the link cannot be made.
        """
        link = os.path.join(self.path, *path.split("/"))
        try:
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(target, link)
        except OSError as error:
            raise EngineUnavailable(f"{path} cannot be linked in {self.path}: {error.strerror or error}") from error
        return link

    def remove(self) -> None:
        """Remove the folder and everything in it. May be called again."""
        self._finish()


def _make_folder() -> str:
    """Make a folder in $TMPDIR, or in the first of the usual temporary folders that can be written."""
    configured = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    problem: OSError | None = None
    for parent in (*filter(None, configured), "/tmp", "/var/tmp", "."):
        path = os.path.join(parent, f"edgekit-{os.urandom(8).hex()}")
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            problem = problem or error
        else:
            return os.path.abspath(path)  # the process may change its working folder
    raise problem or FileNotFoundError("there is no temporary folder")


def _remove_tree(path: str) -> None:
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*files, *folders):  # unlink of a folder fails, unless it is a link
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))
        with suppress(OSError):
            os.rmdir(folder)
