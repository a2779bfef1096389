"""SHA-256, from whichever implementation costs the machine least."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

# OpenSSL's is up to eight times as quick as Python's own, and loading it takes 4 ms and keeps 5.5 MB of memory. That
# is worth it for much content, or where something else has loaded it.
LITTLE_BYTES = 4 << 20
OWN = ("_sha2", "_sha256")  # Python's own, since 3.12 and before


def sha256(size_bytes: int) -> Any:
    """A ``hashlib``-like object for content of about so many bytes."""
    if size_bytes <= LITTLE_BYTES and "_hashlib" not in sys.modules:
        for name in OWN:
            with suppress(ImportError):  # distributors may leave it out
                return import_module(name).sha256()
    from hashlib import sha256 as openssl

    return openssl()


def hex_digest(content: Any) -> str:
    """The SHA-256 of bytes, or of what has a buffer of bytes, in hexadecimal digits."""
    digest = sha256(len(content))
    digest.update(content)
    return str(digest.hexdigest())
