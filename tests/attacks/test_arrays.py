"""Hostile arrays in files with correct digests."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import MalformedBundle

Archive = Callable[..., Path]
GOLDEN = "golden/x.npy"


def with_header(text: str, body: bytes = bytes(8), version: bytes = b"\x01\x00") -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header + body


class Payload:
    """An object whose unpickling calls an arbitrary function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was run",)


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pickled(),
        pickle.dumps(Payload()),
        b"\x93NUMPY" + bytes(100),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2), }", version=b"\x09\x00"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1000000000000), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1, 2), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904), }", b""),
        with_header("{'descr': '>f4', 'fortran_order': False, 'shape': (1, 1, 2), }"),
        with_header("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }"),
        with_header("{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 1, 2), }", bytes(9)),
        with_header("{'descr': __import__('os').abort(), 'shape': (1,), }"),
        with_header("{'descr': '<f4', 'fortran_order': False}"),
        with_header("(" * 110),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2), }", bytes(7)),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2), }", bytes(9)),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60000,
    ],
    ids=lambda content: repr(content[10:70]),
)
def test_a_hostile_array_is_refused_and_never_evaluated(tiny: Any, archive: Archive, content: bytes) -> None:
    tiny.files[GOLDEN] = content
    tiny.list_files()
    path = archive(tiny.entries())
    with pytest.raises(MalformedBundle, match=r"golden/x\.npy"):
        open_bundle(path).array(GOLDEN)
    with pytest.raises(MalformedBundle, match=r"golden/x\.npy"):
        edgekit_runtime.load(path)


@pytest.mark.parametrize("array", [np.zeros((1, 2), np.float32), np.zeros((1, 1, 2)), np.zeros((1, 1, 2), np.int32)])
def test_golden_arrays_of_another_shape_or_dtype(tiny: Any, archive: Archive, array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, array)
    tiny.files[GOLDEN] = file.getvalue()
    tiny.list_files()
    with pytest.raises(MalformedBundle, match=r"golden/x\.npy is "):
        edgekit_runtime.load(archive(tiny.entries()))
