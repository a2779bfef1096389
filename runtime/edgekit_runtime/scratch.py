"""A private temporary folder, without ``tempfile`` and ``shutil``, which keep a megabyte of a board's memory."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress


class Scratch:
    """A folder that only this user may enter. It goes with ``remove``, or when the process ends.

    Raises:
        OSError: none of the system's places for temporary files can be written to.
    """

    def __init__(self) -> None:
        self.path = _made()
        self._finish = weakref.finalize(self, _removed, self.path)

    def remove(self) -> None:
        """Remove the folder and all that is in it. May be called again."""
        self._finish()


def _made() -> str:
    """A new folder in the first place that takes one: $TMPDIR, else where temporary files usually are."""
    asked = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    problem: OSError | None = None
    for place in (*filter(None, asked), "/tmp", "/var/tmp", os.getcwd()):  # the name is private and new
        path = os.path.join(place, f"edgekit-{os.urandom(8).hex()}")
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            problem = problem or error
        else:
            return path
    raise problem or FileNotFoundError("there is no place for temporary files")


def _removed(path: str) -> None:
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))
        with suppress(OSError):
            os.rmdir(folder)
