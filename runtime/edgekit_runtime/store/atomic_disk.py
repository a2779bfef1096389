"""Write to the disk so that a power cut leaves each change complete or undone; count the bytes written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Callable

from edgekit_runtime.errors import StoreError

NEW_SUFFIX = ".new"  # of the new file or link that is renamed over the old one


Fill = Callable[[Callable[[bytes], Any]], None]  # called with the function that writes to a file


class Disk:
    """Writes files, links and folders of a store.

    Attributes:
        written_bytes: bytes written to files, without folders and links.
    """

    def __init__(self) -> None:
        self.written_bytes = 0

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents, and flush their names. It may exist already."""
        parent = os.path.dirname(path)
        if os.path.isdir(path):
            return
        self.make_folder(parent)
        with suppress(FileExistsError):  # another installer created it
            os.mkdir(path)
        self.sync(parent)

    def write(self, path: str, fill: Fill) -> None:
        """Write a file and flush its content. Its name needs a ``sync`` of its folder."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            fill(lambda piece: self._write(descriptor, piece))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, piece: bytes) -> None:
        left = memoryview(piece)
        while left:
            count = os.write(descriptor, left)
            self.written_bytes += count
            left = left[count:]

    def replace(self, path: str, content: bytes) -> None:
        """Replace a file in one step."""
        self.write(path + NEW_SUFFIX, content_writer(content))
        self.move(path + NEW_SUFFIX, path)

    def link(self, path: str, target: str) -> None:
        """Replace a link in one step."""
        with suppress(FileNotFoundError):
            os.unlink(path + NEW_SUFFIX)
        os.symlink(target, path + NEW_SUFFIX)
        self.move(path + NEW_SUFFIX, path)

    def move(self, old: str, new: str) -> None:
        """Rename within a folder, and flush the new name."""
        os.replace(old, new)
        self.sync(os.path.dirname(new))

    def remove(self, folder: str) -> None:
        """Remove a folder and its content, without flushing. It may be missing."""
        for path, folders, files in os.walk(folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(path, name))
            for name in folders:
                os.rmdir(os.path.join(path, name))
        with suppress(FileNotFoundError):
            os.rmdir(folder)

    def sync_tree(self, folder: str) -> None:
        """Flush the names of everything in a folder."""
        for path, _, _ in os.walk(folder, topdown=False):
            self.sync(path)

    def sync(self, folder: str) -> None:
        """Flush the names in a folder."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems that cannot flush folders
                raise
        finally:
            os.close(descriptor)


def content_writer(content: bytes) -> Fill:
    """Return a function that writes this content to a file."""

    def fill(write: Callable[[bytes], Any]) -> None:
        write(content)

    return fill


def free_bytes(folder: str) -> int:
    """Return the free space on the folder's file system that this user may use."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class StoreErrors:  # used as a statement: with StoreErrors(store)
    """Turn an OSError into a StoreError that names the store and says what to do."""

    def __init__(self, store: str) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            where = f"{self._store}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            raise StoreError(f"{where}: {_advice(error.errno)}; the current generation is intact") from error


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or prune the store"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "run as the user who owns the store, on a file system that can be written to and has links"
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return "choose a folder that can be created"
    return "see the system's log: the disk may be failing"


@contextmanager
def removed_on_error(disk: Disk, folder: str) -> Iterator[None]:
    """Remove a folder if the code in the ``with`` block fails."""
    try:
        yield
    except BaseException:  # also KeyboardInterrupt
        with suppress(OSError):  # the next installation removes the leftover
            disk.remove(folder)
        raise
