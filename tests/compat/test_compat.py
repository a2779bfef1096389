"""Every runtime opens, checks, verifies and decrypts the bundles of all earlier releases."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime import __version__, open_bundle
from edgekit_runtime.errors import SignatureInvalid

HERE = Path(__file__).parent
BUNDLES = sorted(HERE.glob("*.edgekit"))
MOST_BYTES = 16 << 10


@pytest.fixture(params=BUNDLES, ids=lambda path: path.stem)
def bundle(request: pytest.FixtureRequest) -> Path:
    """The bundle of a release."""
    path: Path = request.param
    return path


def test_this_release_has_a_bundle() -> None:
    assert f"{__version__}.edgekit" in {path.name for path in BUNDLES}, "python tests/compat/make.py"


def test_the_bundle_is_small_and_intact(bundle: Path) -> None:
    assert bundle.stat().st_size <= MOST_BYTES
    with open_bundle(bundle) as opened:
        opened.verify_all()
        assert opened.manifest.model_version == bundle.stem


@pytest.mark.parametrize("form", ["file", "folder"])
def test_the_bundle_gives_its_golden_outputs_and_results(bundle: Path, tmp_path: Path, form: str) -> None:
    if form == "folder":
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(tmp_path / "unpacked")
        bundle = tmp_path / "unpacked"
    with edgekit_runtime.load(bundle, check="always") as model:
        assert model.placement.variant == "clear"
        assert [refusal.variant for refusal in model.placement.refused] == ["npu-int8"]
        outputs = model(np.array([[[0, 128, 255], [9, 8, 7]], [[1, 2, 3], [200, 100, 50]]], np.uint8), raw=True)
        answers = [(answer.label, round(answer.score, 4)) for answer in model.postprocess(outputs)]
    assert answers == [("south", 0.5525), ("east", 0.4344)]


@pytest.mark.needs_cryptography
@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_its_signatures_are_accepted(bundle: Path, kind: str) -> None:
    open_bundle(bundle, trust=HERE / f"for-tests-only-{kind}.pub.pem").close()


@pytest.mark.needs_cryptography
def test_another_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    from edgekit.bundle.signing import make_key

    with pytest.raises(SignatureInvalid):
        open_bundle(bundle, trust=make_key(tmp_path / "other.pem", "p256")[1])


@pytest.mark.needs_cryptography
def test_its_encrypted_variant_opens_with_the_key(bundle: Path) -> None:
    key = HERE / "artifacts.key"
    with edgekit_runtime.load(bundle, require="secret", check="always", decryption_key=key) as model:
        assert model.placement.variant == "secret"
