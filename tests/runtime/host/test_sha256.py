"""Both implementations compute SHA-256, and small content does not load OpenSSL."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from edgekit_runtime.host.sha256 import SMALL_BYTES, sha256

LOADED = "from edgekit_runtime.host.sha256 import sha256; sha256({}); import sys; print('_hashlib' in sys.modules)"


@pytest.mark.parametrize("size_bytes", [0, 1, SMALL_BYTES, SMALL_BYTES + 1])
def test_both_implementations_give_sha_256(size_bytes: int) -> None:
    digest = sha256(size_bytes)
    digest.update(bytes(size_bytes))
    assert digest.hexdigest() == hashlib.sha256(bytes(size_bytes)).hexdigest()


@pytest.mark.parametrize(("size_bytes", "loaded"), [(SMALL_BYTES, "False"), (SMALL_BYTES + 1, "True")])
def test_openssl_is_loaded_only_for_large_content(size_bytes: int, loaded: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED.format(size_bytes)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == loaded
