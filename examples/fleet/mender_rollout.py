"""Roll an artifact out with a Mender server, to the devices that can run it.

    edgekit preflight model.edgekit --fleet fleet/ --json > boards.json
    MENDER_TOKEN=… python mender_rollout.py https://hosted.mender.io model.mender quarters-1.3 boards.json

Boards are called in the inventory as in Mender: by the device's id. A token is made under "My profile". The third word
is the artifact's name: the package's name and version. Uses the Management APIs: https://docs.mender.io/api
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
import uuid
from pathlib import Path


def send(server: str, path: str, data: bytes, kind: str) -> str:
    """Post to the deployments service; give where what was made is."""
    headers = {"Authorization": f"Bearer {os.environ['MENDER_TOKEN']}", "Content-Type": kind}
    url = f"{server.rstrip('/')}/api/management/v1/deployments{path}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=600) as answer:
        return str(answer.headers.get("Location", ""))


def upload(server: str, artifact: Path) -> str:
    """Upload an artifact: its size comes before it."""
    boundary = uuid.uuid4().hex
    content = artifact.read_bytes()
    size = f'--{boundary}\r\nContent-Disposition: form-data; name="size"\r\n\r\n{len(content)}\r\n'
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="artifact"; filename="{artifact.name}"\r\n'
    data = f"{size}{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content
    whole = data + f"\r\n--{boundary}--\r\n".encode()
    return send(server, "/artifacts", whole, f"multipart/form-data; boundary={boundary}")


def deploy(server: str, artifact_name: str, devices: list[str]) -> str:
    """Deploy to devices; those whose type does not fit get nothing."""
    body = {"name": artifact_name, "artifact_name": artifact_name, "devices": devices}
    return send(server, "/deployments", json.dumps(body).encode(), "application/json")


if __name__ == "__main__":
    address, artifact_path, name, verdicts = sys.argv[1:]
    told = json.loads(Path(verdicts).read_text(encoding="utf-8"))["boards"]
    able = [board["board"] for board in told if board["runs"]]
    if not able:
        sys.exit("no device can run it: nothing was sent")
    upload(address, Path(artifact_path))
    print(f"deployment {deploy(address, name, able)} to {len(able)} devices")
