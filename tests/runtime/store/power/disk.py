"""The possible states of a disk after a power cut: unflushed changes may be missing, partial, or in another order.

POSIX promises only this: a file's content is on the disk after fsync of the file, the names in a folder after fsync of
the folder. Everything else of the log may have happened or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Union


@dataclass(eq=False)
class File:
    content: bytes = b""
    flushed: bytes = b""


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    names: dict[str, Node] = field(default_factory=dict)
    flushed: dict[str, Node] = field(default_factory=dict)
    pending: list[Callable[[dict[str, Node]], None]] = field(default_factory=list)  # since the last flush

    def change(self, step: Callable[[dict[str, Node]], None]) -> None:
        step(self.names)
        self.pending.append(step)

    def flush(self) -> None:
        self.flushed, self.pending = dict(self.names), []


Node = Union[File, Link, Folder]
Tree = dict[str, Union[bytes, str, None]]  # path -> content, target of a link, None of a folder


@dataclass(frozen=True)
class Change:
    """A line of the log."""

    kind: str
    path: str
    other: str
    data: bytes


def read_log(log: bytes) -> list[Change]:
    found, position = [], 0
    while position < len(log):
        end = log.index(b"\n", position)
        kind, size, path, other = log[position:end].decode().split("\t")
        position = end + 1 + int(size)
        found.append(Change(kind, path, other, log[end + 1 : position]))
    return found


class Disk:
    """The content of a folder, starting with its current files as flushed."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.top = _read(root)

    def apply(self, change: Change) -> None:
        """Apply a change of the log."""
        above, name = self._above(change.path)
        if change.kind in ("create", "mkdir", "symlink"):
            _make(change, above, name)
        elif change.kind == "write":
            above.names[name].content += change.data
        elif change.kind in ("unlink", "rmdir"):
            above.change(lambda names: names.pop(name, None) and None)
        elif change.kind == "rename":
            old_above, old = self._above(change.other)
            assert old_above is above, "renamed between folders: two flushes"
            above.change(_renaming(old, name, above.names[old]))
        elif change.kind == "fsync":
            _flush(self.top if change.path == self.root else above.names[name])
        else:
            assert change.kind == "failed", f"the log says {change.kind}"

    def _above(self, path: str) -> tuple[Folder, str]:
        *folders, name = os.path.relpath(path, self.root).split(os.sep)
        node = self.top
        for folder in folders:
            node = node.names[folder]
        return node, name

    def as_it_is(self) -> Tree:
        """Return the files that a running system sees."""
        return dict(_entries(self.top, lambda folder: folder.names, lambda file: file.content))

    def is_flushed(self) -> bool:
        """Return whether everything is flushed."""
        return self.as_it_is() == self._flushed()

    def after_a_cut(self) -> Iterator[tuple[str, Tree]]:
        """Return the possible states that a system sees after a restart.

        Nothing of what was not flushed; all names, without the contents; each single change of names alone.
        """
        yield "nothing that was not flushed", self._flushed()
        yield "all names, and contents as flushed", dict(_entries(self.top, lambda f: f.names, lambda f: f.flushed))
        for folder in _folders(self.top):
            for place in range(len(folder.pending)):
                yield f"change {place} of a folder's names alone", self._flushed(folder, place)

    def _flushed(self, lucky: Folder | None = None, place: int = 0) -> Tree:
        def names(folder: Folder) -> dict[str, Node]:
            found = dict(folder.flushed)
            if folder is lucky:
                folder.pending[place](found)
            return found

        return dict(_entries(self.top, names, lambda file: file.flushed))


def _make(change: Change, above: Folder, name: str) -> None:
    there = above.names.get(name)
    if change.kind == "create" and isinstance(there, File):
        there.content = b""  # truncated
        return
    made = {"create": File(), "mkdir": Folder(), "symlink": Link(change.other)}[change.kind]
    above.change(_putting(name, made))


def _flush(node: Node) -> None:
    if isinstance(node, Folder):
        node.flush()
    else:
        node.flushed = node.content


def _putting(name: str, node: Node) -> Callable[[dict[str, Node]], None]:
    return lambda names: names.update({name: node})


def _renaming(old: str, new: str, node: Node) -> Callable[[dict[str, Node]], None]:
    def rename(names: dict[str, Node]) -> None:
        names.pop(old, None)
        names[new] = node

    return rename


def _read(path: Path) -> Node:
    if path.is_symlink():
        return Link(os.readlink(path))
    if path.is_dir():
        folder = Folder({child.name: _read(child) for child in path.iterdir()})
        folder.flush()
        return folder
    content = path.read_bytes()
    return File(content, content)


def _folders(folder: Folder) -> Iterator[Folder]:
    yield folder
    for node in {**folder.flushed, **folder.names}.values():
        if isinstance(node, Folder):
            yield from _folders(node)


def _entries(folder: Folder, names: Callable, content: Callable, above: str = "") -> Iterator[tuple]:
    for name, node in names(folder).items():
        path = f"{above}{name}"
        if isinstance(node, Folder):
            yield path, None
            yield from _entries(node, names, content, f"{path}/")
        else:
            yield path, node.target if isinstance(node, Link) else content(node)


def tree_of(root: Path) -> Tree:
    """Return the content of a folder."""
    found: Tree = {}
    for path in root.rglob("*"):
        inside = str(path.relative_to(root))
        if path.is_symlink():
            found[inside] = os.readlink(path)
        else:
            found[inside] = None if path.is_dir() else path.read_bytes()
    return found


def write_tree(tree: Tree, root: Path) -> None:
    """Write this content to a folder."""
    root.mkdir()
    for path, content in tree.items():
        place = root / path
        if content is None:
            place.mkdir(exist_ok=True)
        elif isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
