"""SHA-256 from the implementation that costs least time and memory.

``hashlib`` loads OpenSSL, which takes time and memory that a small file does not need
(docs/decisions/0017-small-parts-of-our-own-on-the-board.md has the figures).
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

# OpenSSL's is up to eight times as fast as Python's own. That pays for loading it if the content is large, or if
# another module has loaded it already.
SMALL_BYTES = 4 << 20
PYTHON_MODULES = ("_sha2", "_sha256")  # Python's own, since 3.12 and before


def sha256(size_bytes: int) -> Any:
    """Return a ``hashlib``-like object for content of about the given size."""
    if size_bytes <= SMALL_BYTES and "_hashlib" not in sys.modules:
        for name in PYTHON_MODULES:
            with suppress(ImportError):  # some distributions omit it
                return import_module(name).sha256()
    from hashlib import sha256 as openssl

    return openssl()


def hex_digest(content: Any) -> str:
    """Return the SHA-256 of a bytes-like object, in hexadecimal digits."""
    digest = sha256(len(content))
    digest.update(content)
    return str(digest.hexdigest())
