"""Install what a path leads to: a bundle, or a delta to one, and the whole bundle where that does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import DigestMismatch, MalformedBundle, StoreError, UnsupportedVersion
from edgekit_runtime.store.delta.apply import delta_target, is_delta, open_delta
from edgekit_runtime.store.generations import current
from edgekit_runtime.store.install import install
from edgekit_runtime.store.open import open_bundle

if TYPE_CHECKING:
    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.store.install import Installed, TrialPolicy, Watch


def install_from(
    path: BundlePath, full: BundlePath | None, store: str, terms: TrialPolicy, watch: Watch | None = None
) -> tuple[Installed, str]:
    """Install a bundle or a delta.

    Args:
        path: of either.
        full: the whole bundle that a delta makes, to fall back to; None where there is none.
        store: the store's folder.
        terms: what is asked.
        watch: told the progress.

    Returns:
        What became of it, and why a delta was not used, if it was not.

    Raises:
        BundleError: as of ``install``; of a delta that is damaged, or of a newer format, only where there is nothing
            to fall back to.
        StoreError: likewise of one whose old bundle is not in the store.
    """
    note = ""
    if is_delta(path):
        try:
            if delta_target(path) == current(store):  # it is there already, whatever the delta is made from
                with open_bundle(store, terms.trust) as bundle:
                    return install(bundle, store, terms, watch), note
            with open_delta(path, store, terms.trust) as delta:
                return install(delta, store, terms, watch), note
        except (DigestMismatch, MalformedBundle, StoreError, UnsupportedVersion) as error:
            if full is None:
                raise
            path, note = full, f"the delta was not used: {error}"
    with open_bundle(path, terms.trust) as bundle:
        return install(bundle, store, terms, watch), note
