"""Open a bundle by its path, or the current generation of a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgekit_runtime.bundle.reader import Bundle, read_bundle

if TYPE_CHECKING:
    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.policy import Trust


def open_bundle(path: BundlePath, trust: Trust = None, decryption_key: KeySource | None = None) -> Bundle:
    """Open a ``.edgekit`` archive, the same files in a folder, or the current generation of a store.

    Checks the structure, the bounds, the manifest, and that the listed files and no others are there, in their sizes.
    The content of a file is checked against its digest when the file is read, or by ``Bundle.verify_all``. If a
    signature is required, it is verified, with all digests of the manifest, before the bundle is returned.

    Args:
        path: the archive, folder or store.
        trust: the public keys, one of which must have signed the bundle: files, folders or PEM text. None takes the
            machine's keys from ``$EDGEKIT_TRUST`` or ``/etc/edgekit/trust.d``, if there are any; False requires no
            signature.
        decryption_key: the key of encrypted artifacts: a file of 64 hexadecimal digits, or the 32 bytes. None takes
            the file of ``$EDGEKIT_KEY_FILE``, or the digits of ``$EDGEKIT_KEY``.

    Raises:
        SignatureInvalid: a trusted signature is required, and it is missing or wrong.
        MalformedBundle: there is no bundle at the path, or it breaks the format.
        UnsupportedVersion: a newer edgekit wrote it.
    """
    if not os.path.islink(os.path.join(os.fspath(path), "current")):
        return read_bundle(path, trust, decryption_key)
    from edgekit_runtime.store.generations import lock_current

    lock = lock_current(path)
    return read_bundle(lock.folder, trust, decryption_key, lock)
