"""Roll out a package with Eclipse hawkBit, in groups, to the boards that can run it.

    edgekit preflight model.edgekit --fleet fleet/ --json > boards.json
    HAWKBIT_USER=… HAWKBIT_PASSWORD=… python hawkbit_rollout.py https://hawkbit.example model.raucb 1.3 boards.json

Boards have the same names in hawkBit as in the inventory. The rollout pauses when a tenth of a group has failed. Uses
the Management API: https://eclipse.dev/hawkbit/rest-api/mgmt.html
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

GROUPS = 5
STOP_AT_PERCENT = "10"  # of a group failed
CONTINUE_AT_PERCENT = "90"  # of a group succeeded
READY_S = 300.0
NAME = re.compile(r"[A-Za-z0-9_.:-]+")  # of a board; untrusted, since it may come from the board


class HawkBit:
    """The Management API of a server."""

    def __init__(self, server: str) -> None:
        self.url = f"{server.rstrip('/')}/rest/v1"
        account = f"{os.environ['HAWKBIT_USER']}:{os.environ['HAWKBIT_PASSWORD']}"
        self.login = {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send JSON and return the response."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(method, path, data, "application/json")

    def upload(self, path: str, file: Path) -> Any:
        """Upload a file."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
        data = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
        body = data + f"\r\n--{boundary}--\r\n".encode()
        return self._send("POST", path, body, f"multipart/form-data; boundary={boundary}")

    def _send(self, method: str, path: str, data: bytes | None, kind: str) -> Any:
        headers = {**self.login, "Accept": "application/hal+json", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=600) as response:
            text = response.read()
        return json.loads(text) if text else None


def roll_out(server: HawkBit, package: Path, version: str, boards: list[str]) -> int:
    """Upload the package, start the rollout and return its id."""
    name = package.stem
    module = {"name": name, "version": version, "type": "application"}
    (software,) = server.call("POST", "/softwaremodules", [module])
    server.upload(f"/softwaremodules/{software['id']}/artifacts", package)
    distribution_set = {"name": name, "version": version, "type": "app", "modules": [{"id": software["id"]}]}
    (distribution,) = server.call("POST", "/distributionsets", [distribution_set])
    rollout = {
        "name": f"{name} {version}",
        "distributionSetId": distribution["id"],
        "targetFilterQuery": f"id=in=({','.join(boards)})",
        "amountGroups": min(GROUPS, len(boards)),
        "type": "forced",
        "successCondition": {"condition": "THRESHOLD", "expression": CONTINUE_AT_PERCENT},
        "successAction": {"action": "NEXTGROUP", "expression": ""},
        "errorCondition": {"condition": "THRESHOLD", "expression": STOP_AT_PERCENT},
        "errorAction": {"action": "PAUSE", "expression": ""},
    }
    number = int(server.call("POST", "/rollouts", rollout)["id"])
    _wait_until_ready(server, number)
    server.call("POST", f"/rollouts/{number}/start")
    return number


def _wait_until_ready(server: HawkBit, number: int) -> None:
    """Wait until hawkBit has divided the boards into groups."""
    end = time.monotonic() + READY_S
    while (status := server.call("GET", f"/rollouts/{number}")["status"]) != "ready":
        if time.monotonic() > end:
            sys.exit(f"rollout {number} is still {status!r}")
        time.sleep(1)


if __name__ == "__main__":
    address, package_path, model_version, results = sys.argv[1:]
    all_boards = json.loads(Path(results).read_text(encoding="utf-8"))["boards"]
    able = [board["board"] for board in all_boards if board["runs"]]
    if not able:
        sys.exit("no board can run it: nothing was sent")
    if invalid := [name for name in able if not NAME.fullmatch(name)]:
        sys.exit(f"hawkBit would read these names as part of its query: {invalid}: nothing was sent")
    print(f"rollout {roll_out(HawkBit(address), Path(package_path), model_version, able)} to {len(able)} boards")
