"""View bytes as an ``.npy`` array. numpy's reader is not used because it evaluates headers and loads pickles."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.format.consistency import MAX_ELEMENTS

if TYPE_CHECKING:
    from edgekit_runtime.tensors import Array

_MAX_HEADER_BYTES = 1024  # of an .npy of at most 16 dimensions
_NPY = (  # magic and version, header length, dtype, order, shape: as numpy.save writes them
    rb"\x93NUMPY\x01\x00(..)\{'descr': '((?:\|[biu]1)|(?:<[iu][248])|(?:<f[248]))', "
    rb"'fortran_order': (True|False), 'shape': \(((?:\d{1,10},? ?){0,16})\), \} *\n"
)


def view(content: Array, where: str) -> Array:
    """View bytes as the array that their ``.npy`` header describes. The header is matched, never evaluated.

    Args:
        content: the complete file, (bytes,) uint8.
        where: the bundle and the file, for messages.

    Returns:
        The array, which shares the memory of ``content``.

    Raises:
        MalformedBundle: it is not an ``.npy`` file, or its size differs from its header.
    """
    found = re.match(_NPY, content[:_MAX_HEADER_BYTES].tobytes(), re.DOTALL)
    if found is None or int.from_bytes(found[1], "little") != found.end() - 10:
        raise MalformedBundle(f"{where}: is not an .npy file, version 1, of plain little-endian numbers")
    dtype = np.dtype(found[2].decode())
    shape = tuple(int(dim) for dim in re.findall(rb"\d+", found[4]))
    body = content[found.end() :]
    if max(shape, default=0) > MAX_ELEMENTS or math.prod(shape) * dtype.itemsize != body.size:
        raise MalformedBundle(f"{where}: has {body.size} bytes, expected those of {dtype} {list(shape)}")
    return np.asarray(body).view(dtype).reshape(shape, order="F" if found[3] == b"True" else "C")
