"""Roll out an artifact with a Mender server to the devices that can run it.

    edgekit preflight model.edgekit --fleet fleet/ --json > boards.json
    MENDER_TOKEN=… python mender_rollout.py https://hosted.mender.io model.mender quarters-1.3 boards.json

Boards are named in the inventory by their Mender device id. Create a token under "My profile". The third argument is
the name of the artifact: name and version of the package. Uses the Management APIs: https://docs.mender.io/api
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
import uuid
from pathlib import Path


def send(server: str, path: str, data: bytes, kind: str) -> str:
    """Post to the deployments service; return the location of the new resource."""
    headers = {"Authorization": f"Bearer {os.environ['MENDER_TOKEN']}", "Content-Type": kind}
    url = f"{server.rstrip('/')}/api/management/v1/deployments{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=600) as response:
        return str(response.headers.get("Location", ""))


def upload(server: str, artifact: Path) -> str:
    """Upload an artifact. Its size must come first."""
    boundary = uuid.uuid4().hex
    content = artifact.read_bytes()
    size = f'--{boundary}\r\nContent-Disposition: form-data; name="size"\r\n\r\n{len(content)}\r\n'
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="artifact"; filename="{artifact.name}"\r\n'
    data = f"{size}{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content
    body = data + f"\r\n--{boundary}--\r\n".encode()
    return send(server, "/artifacts", body, f"multipart/form-data; boundary={boundary}")


def deploy(server: str, artifact_name: str, devices: list[str]) -> str:
    """Deploy to devices. The server skips those of another type."""
    body = {"name": artifact_name, "artifact_name": artifact_name, "devices": devices}
    return send(server, "/deployments", json.dumps(body).encode(), "application/json")


if __name__ == "__main__":
    address, artifact_path, name, results = sys.argv[1:]
    boards = json.loads(Path(results).read_text(encoding="utf-8"))["boards"]
    able = [board["board"] for board in boards if board["runs"]]
    if not able:
        sys.exit("no device can run it: nothing was sent")
    upload(address, Path(artifact_path))
    print(f"deployment {deploy(address, name, able)} to {len(able)} devices")
