"""Write .npy files sample by sample: checks, hashes and writes each block, without keeping it in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy

from edgekit_converters.data.samples import Array
from edgekit_runtime.errors import DataError


class Column:
    """The samples of one input, or the labels, as (count, *shape) on disk.

    A context manager that completes the file at the end, and removes it after an exception. Disk errors (``OSError``)
    pass through.

    Attributes:
        count: samples written.
        lowest, highest: over all values written.
        dtype: of the first samples, in this machine's byte order; all others must have it, too.
    """

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self.title = title  # for messages, such as "input 'x'"
        self.count = 0
        self.lowest: Any = None
        self.highest: Any = None
        self.dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def append(self, block: Array, names: tuple[str, ...]) -> None:
        """Write ``block`` (k, *shape); ``names`` holds a name of each of the k samples for messages.

        Raises:
            DataError: values are not numbers, not finite, or differ in dtype or shape from earlier ones.
        """
        if block.dtype.kind not in "biuf":
            raise DataError(f"{names[0]}: {self.title} holds {block.dtype}, not numbers")
        dtype = block.dtype.newbyteorder("=")
        if self.dtype is None:
            self.dtype, self._shape = dtype, block.shape[1:]
            self._write_header()
        if (dtype, block.shape[1:]) != (self.dtype, self._shape):
            raise DataError(
                f"{names[0]}: {self.title} is {dtype} of shape {block.shape[1:]}, "
                f"the samples before it are {self.dtype} of shape {self._shape}"
            )
        self._check_finite(block, names)
        self._measure(block)
        content = block.astype(dtype, copy=False).tobytes()
        self._digest.update(content)
        self._file.write(content)
        self.count += len(block)

    def digest(self) -> bytes:
        """Return the SHA-256 of dtype, shape and all values; it does not depend on the division into blocks."""
        whole = self._digest.copy()
        whole.update(repr((str(self.dtype), self.count, self._shape)).encode())
        return whole.digest()

    def _check_finite(self, block: Array, names: tuple[str, ...]) -> None:
        if block.dtype.kind != "f" or np.isfinite(block).all():
            return
        bad = int(np.argmin(np.isfinite(block).reshape(len(block), -1).all(axis=1)))
        raise DataError(f"{names[bad]}: {self.title} holds NaN or infinity; remove or repair this sample")

    def _measure(self, block: Array) -> None:
        low, high = block.min(), block.max()
        self.lowest = low if self.lowest is None else min(low, self.lowest)
        self.highest = high if self.highest is None else max(high, self.highest)

    def _write_header(self) -> None:
        """Write the header; it is written again at the end, and numpy pads it so that the final count fits."""
        assert self.dtype is not None
        descr = npy.dtype_to_descr(self.dtype)
        shape = (self.count, *self._shape)
        npy.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})

    def __enter__(self) -> Column:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = False
        try:
            with self._file:
                if kind is None and self.dtype is not None:
                    self._file.seek(0)
                    self._write_header()
            complete = kind is None and self.dtype is not None
        finally:
            if not complete:
                self.path.unlink()
