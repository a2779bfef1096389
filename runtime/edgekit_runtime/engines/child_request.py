"""The request that a parent process sends to the child that is to open a variant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit_runtime.bundle.reader import read_bundle
from edgekit_runtime.errors import DigestMismatch
from edgekit_runtime.record import replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import Variant


def make_request(bundle: Bundle, variant: Variant, threads: int | None, cache: bool) -> dict[str, Any]:
    """Make a request that can be written as JSON.

    Raises:
        DecryptionFailed: the bundle has encrypted artifacts and their key is missing.
    """
    return {
        "bundle": os.path.abspath(bundle.path),
        "manifest_sha256": bundle.manifest_sha256,
        "decryption_key": bundle.key_for_children(),
        "variant": variant.name,
        "delegate": variant.delegate,
        "settings": variant.settings,
        "threads": threads,
        "cache": cache,
    }


def bundle_of(request: Mapping[str, Any]) -> Bundle:
    """Open the bundle of a request in the child. The parent has verified its signature if it had to.

    Raises:
        DigestMismatch: it is not the bundle that the parent opened.
    """
    key = request["decryption_key"]
    bundle = read_bundle(request["bundle"], trust=False, decryption_key=key and bytes.fromhex(key))
    if bundle.manifest_sha256 != request["manifest_sha256"]:
        raise DigestMismatch(f"{bundle.path}: was replaced while it was open: load it again")
    return bundle


def variant_of(bundle: Bundle, request: Mapping[str, Any]) -> Variant:
    """Return the variant of a request, with the delegate and settings that the caller chose."""
    variant = next(v for v in bundle.manifest.variants if v.name == request["variant"])
    return replace(variant, delegate=request["delegate"], settings=request["settings"])
