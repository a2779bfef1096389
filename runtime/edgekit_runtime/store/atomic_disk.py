"""What a store does to the disk: each step is there whole after a power cut or not at all, and bytes are counted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Callable

from edgekit_runtime.errors import StoreError

NEW_SUFFIX = ".new"  # what is about to replace a file or link is named like it, with this behind


Fill = Callable[[Callable[[bytes], Any]], None]  # is given the function that writes to a file


class Disk:
    """Writes into a store.

    Attributes:
        written_bytes: how many bytes went into files; directories and links are the file system's own affair.
    """

    def __init__(self) -> None:
        self.written_bytes = 0

    def make_folder(self, path: str) -> None:
        """Make a folder that may be there already, with those above it, and have its name on the disk."""
        above = os.path.dirname(path)
        if os.path.isdir(path):
            return
        self.make_folder(above)
        with suppress(FileExistsError):  # another installer was quicker
            os.mkdir(path)
        self.sync(above)

    def write(self, path: str, fill: Fill) -> None:
        """Write a new file, and have its content on the disk; its name needs a ``sync`` of its folder."""
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
        """Put a file in the place of another in one step."""
        self.write(path + NEW_SUFFIX, content_writer(content))
        self.move(path + NEW_SUFFIX, path)

    def link(self, path: str, target: str) -> None:
        """Put a link in the place of another in one step."""
        with suppress(FileNotFoundError):
            os.unlink(path + NEW_SUFFIX)
        os.symlink(target, path + NEW_SUFFIX)
        self.move(path + NEW_SUFFIX, path)

    def move(self, old: str, new: str) -> None:
        """Rename within a folder, and have that on the disk."""
        os.replace(old, new)
        self.sync(os.path.dirname(new))

    def remove(self, folder: str) -> None:
        """Remove a folder with all that is in it; it may be gone already. Call ``sync`` where that matters."""
        for path, folders, files in os.walk(folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(path, name))
            for name in folders:
                os.rmdir(os.path.join(path, name))
        with suppress(FileNotFoundError):
            os.rmdir(folder)

    def sync_tree(self, folder: str) -> None:
        """Have the names of everything in a folder on the disk."""
        for path, _, _ in os.walk(folder, topdown=False):
            self.sync(path)

    def sync(self, folder: str) -> None:
        """Have the names in a folder on the disk."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems that write names at once know no such thing
                raise
        finally:
            os.close(descriptor)


def content_writer(content: bytes) -> Fill:
    """What fills a file with a content."""

    def fill(write: Callable[[bytes], Any]) -> None:
        write(content)

    return fill


def free_bytes(folder: str) -> int:
    """What a user may still write on a folder's file system."""
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


class store_errors:  # a statement, not a thing: with writing(...)
    """Turn what the system refuses into a StoreError that names the store and says what to do."""

    def __init__(self, store: str) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            where = f"{self._store}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
            raise StoreError(f"{where}: {_advice(error.errno)}; what is current is whole") from error


def _advice(code: int | None) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or prune the store"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "run as the user who owns the store, on a file system that can be written to and has links"
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return "name a folder that can be made"
    return "see the system's log: the disk may be failing"


@contextmanager
def removed_on_error(disk: Disk, folder: str) -> Iterator[None]:
    """Remove a folder again when something stops what is written into it."""
    try:
        yield
    except BaseException:  # whatever stopped it, and Ctrl-C too
        with suppress(OSError):  # then it stays as a leftover, which the next one removes
            disk.remove(folder)
        raise
