"""A private temporary folder, without ``tempfile`` and ``shutil``, which keep a megabyte of a board's memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgekit_runtime.errors import EngineUnavailable

ADVICE = "make room or set TMPDIR, or keep the bundle as a folder, which takes none"


class TempFolder:
    """A folder that only this user may enter. It goes with ``remove``, or when the process ends.

    Raises:
        EngineUnavailable: none of the system's places for temporary files can be written to.
    """

    def __init__(self) -> None:
        try:
            self.path = _made()
        except OSError as error:
            raise EngineUnavailable(f"no folder for temporary files can be made: {error}: {ADVICE}") from error
        self._finish = weakref.finalize(self, _removed, self.path)

    def write(self, path: str, fill: Callable[[Callable[[bytes], Any]], None]) -> str:
        """Make a file, in folders of its own, and return where; ``fill`` is given the function that writes to it.

        Raises:
            EngineUnavailable: there is no room.
        """
        target = os.path.join(self.path, *path.split("/"))
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                fill(file.write)
        except OSError as error:
            with suppress(OSError):
                os.unlink(target)  # what is left of the room is for a smaller one
            why = error.strerror or error
            raise EngineUnavailable(f"{path} cannot be written to {self.path}: {why}: {ADVICE}") from error
        return target

    def link(self, path: str, target: str) -> str:
        """Make a symbolic link, in folders of its own, and return where.

        Raises:
            EngineUnavailable: there is no room.
        """
        place = os.path.join(self.path, *path.split("/"))
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(target, place)
        except OSError as error:
            raise EngineUnavailable(f"{path} cannot be linked in {self.path}: {error.strerror or error}") from error
        return place

    def remove(self) -> None:
        """Remove the folder and all that is in it. May be called again."""
        self._finish()


def _made() -> str:
    """A new folder in the first place that takes one: $TMPDIR, else where temporary files usually are."""
    asked = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    problem: OSError | None = None
    for place in (*filter(None, asked), "/tmp", "/var/tmp", "."):  # the name is private and new
        path = os.path.join(place, f"edgekit-{os.urandom(8).hex()}")
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            problem = problem or error
        else:
            return os.path.abspath(path)  # the process may go elsewhere
    raise problem or FileNotFoundError("there is no place for temporary files")


def _removed(path: str) -> None:
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*files, *folders):  # of the folders, links to some are left
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))
        with suppress(OSError):
            os.rmdir(folder)
