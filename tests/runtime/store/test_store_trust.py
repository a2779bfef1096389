"""A store installs bundles and deltas signed by a trusted key, also after keys were replaced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bundle.delta import make_delta
from edgekit.bundle.signing import make_key, read_private_key, sign
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.__main__ import main
from edgekit_runtime.errors import SignatureInvalid
from edgekit_runtime.format.manifest import Manifest
from edgekit_runtime.store.generations import current
from edgekit_runtime.store.install import InstallOptions, install_from

pytestmark = pytest.mark.needs_cryptography


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Two private keys by name, with their public keys."""
    for name in ("old", "new"):
        make_key(tmp_path / f"{name}.pem", "ed25519")
    return {name: tmp_path / f"{name}.pem" for name in ("old", "new")}


@pytest.fixture
def signed(manifest: Manifest, files: dict[str, bytes], keys: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Versions by number: 1 is signed with the old key, 2 and 3 with the new one, 4 is unsigned."""
    found = {}
    for number, key in (("1", "old"), ("2", "new"), ("3", "new"), ("4", None)):
        found[number] = tmp_path / f"{number}.edgekit"
        changed = {**files, "labels.txt": files["labels.txt"].replace(b"west", b"west" + number.encode())}
        write_bundle(replace(manifest, model_version=number), changed, found[number])
        if key is not None:
            sign(found[number], [read_private_key(keys[key])])
    return found


def public(key: Path) -> str:
    return str(key.with_name(f"{key.stem}.pub.pem"))


def test_only_bundles_signed_by_a_trusted_key_are_installed(
    signed: dict[str, Path], keys: dict[str, Path], tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    assert main(["install", str(signed["1"]), store, "--key", public(keys["old"])]) == 0
    first = current(store)
    for number in ("2", "4"):
        arguments = ["install", str(signed[number]), store, "--key", public(keys["old"])]
        assert main(arguments) == SignatureInvalid.exit_code
    assert current(store) == first


def test_updates_work_after_a_key_was_replaced(
    signed: dict[str, Path], keys: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    install_from(signed["1"], None, store, InstallOptions(commit=True, trust=public(keys["old"])))
    monkeypatch.setenv("EDGEKIT_TRUST", public(keys["new"]))
    install_from(signed["2"], None, store, InstallOptions(commit=True))
    assert main(["status", store]) == 0
    with open_bundle(store) as bundle:
        assert bundle.signed_by


def test_a_rollback_to_an_untrusted_generation_is_refused(
    signed: dict[str, Path],
    keys: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = str(tmp_path / "store")
    install_from(signed["1"], None, store, InstallOptions(commit=True))
    install_from(signed["2"], None, store, InstallOptions(commit=True))
    monkeypatch.setenv("EDGEKIT_TRUST", public(keys["new"]))
    assert main(["rollback", store]) == 8
    assert "no good generation before it" in capsys.readouterr().err


def test_a_delta_is_verified_with_the_signature_of_the_new_bundle(
    signed: dict[str, Path], keys: dict[str, Path], tmp_path: Path
) -> None:
    store, delta = str(tmp_path / "store"), tmp_path / "x.delta"
    install_from(signed["2"], None, store, InstallOptions(commit=True))
    make_delta(signed["2"], signed["3"], delta, codec="zlib")
    with pytest.raises(SignatureInvalid):
        install_from(delta, None, store, InstallOptions(trust=public(keys["old"])))
    install_from(delta, None, store, InstallOptions(commit=True, trust=public(keys["new"])))
    with open_bundle(store, public(keys["new"])) as bundle, open_bundle(signed["3"]) as new:
        bundle.verify_all()
        assert bundle.unlisted() == new.unlisted()
    make_delta(signed["3"], signed["4"], delta, codec="zlib")
    with pytest.raises(SignatureInvalid, match="is not signed"):
        install_from(delta, None, store, InstallOptions(trust=public(keys["new"])))


def test_a_delta_with_a_manifest_swapped_under_its_signature_is_refused(
    signed: dict[str, Path], keys: dict[str, Path], manifest: Manifest, files: dict[str, bytes], tmp_path: Path
) -> None:
    """An attacker without a key puts the signature of version 3 next to another manifest."""
    store, forged = str(tmp_path / "store"), tmp_path / "forged"
    install_from(signed["2"], None, store, InstallOptions(commit=True))
    write_bundle(replace(manifest, model_version="5"), files, forged, as_directory=True)
    with open_bundle(signed["3"]) as bundle:
        (forged / "model.sig").write_bytes(bundle.unlisted()["model.sig"])
    make_delta(signed["2"], forged, tmp_path / "x.delta", codec="zlib")
    before = current(store)
    with pytest.raises(SignatureInvalid, match="not what was signed"):
        install_from(tmp_path / "x.delta", None, store, InstallOptions(trust=public(keys["new"])))
    assert current(store) == before
