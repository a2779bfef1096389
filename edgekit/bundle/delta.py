"""Make a delta: what a board with an old bundle needs to have the new one, proven before it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from edgekit.bundle.block_matching import CopyRange, find_stretches
from edgekit_runtime import open_bundle
from edgekit_runtime.bundle.reader import Bundle
from edgekit_runtime.errors import PlanError
from edgekit_runtime.store.delta.apply import Delta
from edgekit_runtime.store.delta.codec import CODECS, Codec
from edgekit_runtime.store.delta.format import (
    ADD,
    COPY,
    FILL,
    MAX_STEPS,
    Header,
    Piece,
    Step,
    header_bytes,
    read_header,
    steps_bytes,
)
from edgekit_runtime.store.generations import name_of

POINTLESS = 0.75  # of the whole bundle's bytes: from here on a delta saves less than the trouble it may make
FLOATS = ("float32", "float16")
ALL_MOVED = 0.9  # of a file's bytes

Watch = Callable[[str, str, int, int], None]  # as of the stages of a conversion


@dataclass(frozen=True)
class FileDelta:
    """What a delta holds of one file."""

    path: str
    size_bytes: int
    delta_bytes: int
    unchanged: float  # fraction of the file that the old one has, somewhere


@dataclass(frozen=True)
class DeltaReport:
    """What was made."""

    path: str
    old: str  # names of the generations, as a store has them
    new: str
    delta_bytes: int
    bundle_bytes: int  # of all the new bundle's files
    share: float  # the one of the other
    pointless: str  # why the bundle itself should be sent; empty where the delta is worth it
    files: tuple[FileDelta, ...]

    def to_json(self) -> str:
        """The report for programs."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class _Made:
    piece: Piece
    steps: list[Step]
    contents: list[bytes]

    @property
    def delta_bytes(self) -> int:
        return sum(map(len, self.contents))

    @property
    def unchanged(self) -> float:
        copied = sum(step.size_bytes for step in self.steps if step.kind == COPY)
        return copied / self.piece.size_bytes if self.piece.size_bytes else 1.0


class _Whole:
    """All files of a bundle, listed or not."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._unlisted = bundle.unlisted()
        self.name = name_of(self._unlisted)
        self.digests = {record.path: record.sha256 for record in bundle.manifest.files}
        self.paths = (*self._unlisted, *self.digests)

    def read(self, path: str) -> bytes:
        """The content of a file, as it is stored: what is encrypted stays so."""
        if path in self._unlisted:
            return self._unlisted[path]
        content = bytearray()
        self._bundle.copy(path, content.extend)
        return bytes(content)

    def close(self) -> None:
        """Whoever opened the bundle closes it."""


def make_delta(
    old: str | Path, new: str | Path, out: str | Path, *, codec: str = "zstd", watch: Watch | None = None
) -> DeltaReport:
    """Write the delta from one bundle to another, and prove that it makes the other.

    Raises:
        PlanError: both are the same bundle, or the output is one of them.
        StoreError: the package that compresses is not installed.
        BundleError: one of them is damaged.
        OSError: the delta cannot be written; nothing is left of it then.
    """
    if any(Path(out).resolve() == Path(path).resolve() for path in (old, new)):
        raise PlanError(f"{out}: is one of the two bundles: name another file")
    packer = CODECS[codec]()
    with open_bundle(old, trust=False) as old_bundle, open_bundle(new, trust=False) as new_bundle:
        before, after = _Whole(old_bundle), _Whole(new_bundle)
        if before.name == after.name:
            raise PlanError(f"{old} and {new} are the same bundle: there is nothing to send")
        made = list(_made(before, after, packer, watch))
        packed = packer.compress(steps_bytes([step for one in made for step in one.steps]))
        header = Header(codec, before.name, after.name, len(packed), tuple(one.piece for one in made))
        with _written(Path(out)) as file:
            file.write(header_bytes(header) + packed)
            file.writelines(content for one in made for content in one.contents)
            _prove(file, before, after)
        return _report(out, header, made, new_bundle)


def _made(before: _Whole, after: _Whole, packer: Codec, watch: Watch | None) -> Iterator[_Made]:
    left = MAX_STEPS
    for done, path in enumerate(after.paths):
        if watch is not None:
            watch("delta", "", done, len(after.paths))
        base = _base(path, before, after)
        content, source = after.read(path), before.read(base) if base is not None else b""
        most = left - (len(after.paths) - done)  # one at least for each file that follows
        steps, contents = _steps(content, source, packer, most)
        left -= len(steps)
        yield _Made(Piece(path, len(content), base, len(steps)), steps, contents)
    if watch is not None:
        watch("delta", "", 1, 1)


def _base(path: str, before: _Whole, after: _Whole) -> str | None:
    """The old file that is most like a new one: of the same content, path or name."""
    same = [one for one, digest in before.digests.items() if digest == after.digests.get(path)]
    if same or path in before.paths:
        return path if path in before.paths else same[0]
    named = [one for one in before.digests if one.rpartition("/")[2] == path.rpartition("/")[2]]
    return named[0] if named else None


def _steps(new: bytes, old: bytes, packer: Codec, most: int) -> tuple[list[Step], list[bytes]]:
    """What makes ``new`` of ``old``, in at most so many steps."""
    steps, contents = [], []
    for stretch in find_stretches(new, old, most):
        step, content = _step(new, old, stretch, packer)
        steps.append(step)
        contents.append(content)
    return steps, contents


def _step(new: bytes, old: bytes, stretch: CopyRange, packer: Codec) -> tuple[Step, bytes]:
    """The cheapest step that makes a stretch."""
    if stretch.same:
        return Step(COPY, stretch.old_offset, stretch.size_bytes, 0), b""
    wanted = memoryview(new)[stretch.offset : stretch.offset + stretch.size_bytes]
    like = memoryview(old)[stretch.old_offset : stretch.old_offset + stretch.size_bytes]
    filled = packer.compress(wanted, like)
    best = Step(FILL, stretch.old_offset, stretch.size_bytes, len(filled)), filled
    if len(like) == stretch.size_bytes:
        import numpy as np

        difference = np.frombuffer(wanted, np.uint8) - np.frombuffer(like, np.uint8)  # modulo 256
        added = packer.compress(difference)
        if len(added) < len(filled):
            best = Step(ADD, stretch.old_offset, stretch.size_bytes, len(added)), added
    return best


@contextmanager
def _written(out: Path) -> Iterator[BinaryIO]:
    """A new file in the place of ``out``, once it is whole."""
    aside = out.with_name(f".{out.name}.part")
    try:
        with aside.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, out)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _prove(file: BinaryIO, before: _Whole, after: _Whole) -> None:
    """Apply the delta, as a board would; the board's own checks raise where it does not make the new bundle."""
    file.seek(0)
    header = read_header(file, "the delta")
    delta = Delta("the delta", header, file, before, trust=False)
    for path in after.digests:
        delta.copy(path, lambda _: None)


def _report(out: str | Path, header: Header, made: list[_Made], new: Bundle) -> DeltaReport:
    bundle_bytes = sum(one.piece.size_bytes for one in made)
    delta_bytes = Path(out).stat().st_size
    files = tuple(FileDelta(one.piece.path, one.piece.size_bytes, one.delta_bytes, one.unchanged) for one in made)
    share = delta_bytes / bundle_bytes
    why = _why_pointless(share, files, new) if share >= POINTLESS else ""
    return DeltaReport(str(out), header.old, header.new, delta_bytes, bundle_bytes, share, why, files)


def _why_pointless(share: float, files: tuple[FileDelta, ...], new: Bundle) -> str:
    schemes = {path: variant.scheme for variant in new.manifest.variants for path in variant.files}
    largest = max(files, key=lambda one: one.delta_bytes)
    told = f"the delta has {share:.0%} of the bundle's bytes: send the bundle itself. "
    if any(file.encryption for file in new.manifest.files if file.path == largest.path):
        return f"{told}{largest.path} is encrypted, and becomes another file with the least that changes in it"
    what = f"{1 - largest.unchanged:.0%} of {largest.path} is not in the old bundle"
    if schemes.get(largest.path) in FLOATS and largest.unchanged < 1 - ALL_MOVED:
        return f"{told}{what}: all its {schemes[largest.path]} weights moved, as they do in training"
    return told + what
