"""The OCI layout: it follows the specification, and skopeo reads it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from edgekit_runtime import load


def blob(layout: Path, described: dict) -> bytes:
    content = (layout / "blobs/sha256" / described["digest"].removeprefix("sha256:")).read_bytes()
    assert len(content) == described["size"]
    assert f"sha256:{sha256(content).hexdigest()}" == described["digest"]
    return content


def test_the_layer_is_the_bundle(write, bundle):
    layout = write("oci", "layout")
    (described,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(layout, described))
    assert manifest["artifactType"] == described["artifactType"] == "application/vnd.edgekit.bundle.v1"
    assert blob(layout, manifest["config"]) == b"{}"
    (layer,) = manifest["layers"]
    assert blob(layout, layer) == bundle.read_bytes()
    assert layer["annotations"]["org.opencontainers.image.title"] == "quarters.edgekit"
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


@pytest.mark.needs_updaters
def test_skopeo_inspects_and_copies_it(write, call, bundle, tmp_path):
    layout = write("oci", "layout")
    told = call("skopeo", "inspect", "--raw", f"oci:{layout}:1.2")
    assert json.loads(told.stdout)["artifactType"] == "application/vnd.edgekit.bundle.v1"
    done = call("skopeo", "copy", f"oci:{layout}:1.2", f"dir:{tmp_path}/copy")
    assert done.returncode == 0, done.stdout
    (layer,) = json.loads(told.stdout)["layers"]
    copied = tmp_path / "copy" / layer["digest"].removeprefix("sha256:")
    assert copied.read_bytes() == bundle.read_bytes()
    with load(copied) as model:
        assert model.manifest.model_version == "1.2"


@pytest.mark.needs_updaters
def test_skopeo_refuses_a_tampered_layer(write, call, flip, bundle, tmp_path):
    layout = write("oci", "layout")
    digest = sha256(bundle.read_bytes()).hexdigest()
    flip(layout / "blobs/sha256" / digest, b"NUMPY")
    done = call("skopeo", "copy", f"oci:{layout}:1.2", f"dir:{tmp_path}/copy")
    assert done.returncode != 0
    assert "Digest did not match" in done.stdout
