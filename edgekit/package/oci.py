"""An OCI image layout with the bundle as an artifact, for registries, skopeo and oras.

The layout and the annotations are those of the OCI image specification 1.1, "Guidance for an Artifact".
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekit.package.bundle_contents import BundleContents
from edgekit.package.request import PackageRequest, epoch

ARTIFACT_TYPE = "application/vnd.edgekit.bundle.v1"
LAYER_TYPE = "application/vnd.edgekit.bundle.v1+zip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write the layout as a folder with one manifest, tagged with the version."""
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = _bundle(blobs, contents)
    model = contents.manifest
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _blob(blobs, EMPTY_TYPE, b"{}"),
        "layers": [{**layer, "annotations": {"org.opencontainers.image.title": request.file_name}}],
        "annotations": {
            "org.opencontainers.image.created": datetime.fromtimestamp(epoch(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "org.opencontainers.image.title": model.model_name,
            "org.opencontainers.image.version": request.version,
        },
    }
    descriptor = _blob(blobs, MANIFEST_TYPE, _json(manifest))
    tag = {"org.opencontainers.image.ref.name": request.version.replace("+", "_").replace("~", "_")}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**descriptor, "artifactType": ARTIFACT_TYPE, "annotations": tag}],
    }
    (out / "index.json").write_bytes(_json(index))
    (out / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    name = tag["org.opencontainers.image.ref.name"]
    return [f"skopeo copy oci:{out.name}:{name} docker://REGISTRY/{request.name}:{name}"]


def _bundle(blobs: Path, contents: BundleContents) -> dict[str, Any]:
    """Write the bundle as a blob, named by its digest."""
    temporary, digest = blobs / "bundle", sha256()
    with temporary.open("wb") as file:
        for chunk in contents.file_chunks():
            digest.update(chunk)
            file.write(chunk)
    temporary.rename(blobs / digest.hexdigest())
    return {"mediaType": LAYER_TYPE, "digest": f"sha256:{digest.hexdigest()}", "size": contents.file_bytes}


def _blob(blobs: Path, kind: str, content: bytes) -> dict[str, Any]:
    digest = sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
