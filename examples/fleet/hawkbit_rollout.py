"""Roll a package out with Eclipse hawkBit, in groups, to the boards that can run it.

    edgekit preflight model.edgekit --fleet fleet/ --json > boards.json
    HAWKBIT_USER=… HAWKBIT_PASSWORD=… python hawkbit_rollout.py https://hawkbit.example model.raucb 1.3 boards.json

Boards are called in hawkBit as in the inventory. The rollout stops by itself when a tenth of a group fails. Uses the
Management API: https://eclipse.dev/hawkbit/rest-api/mgmt.html
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
STOP_AT_PERCENT = "10"  # of a group's boards that failed
GO_ON_AT_PERCENT = "90"  # that succeeded
READY_S = 300.0
NAME = re.compile(r"[A-Za-z0-9_.:-]+")  # of a board, which may have come from the board


class HawkBit:
    """The Management API of a server."""

    def __init__(self, server: str) -> None:
        self.url = f"{server.rstrip('/')}/rest/v1"
        account = f"{os.environ['HAWKBIT_USER']}:{os.environ['HAWKBIT_PASSWORD']}"
        self.login = {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Call with JSON, and give the answer."""
        data = None if body is None else json.dumps(body).encode()
        return self._send(method, path, data, "application/json")

    def upload(self, path: str, file: Path) -> Any:
        """Upload a file."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
        data = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
        whole = data + f"\r\n--{boundary}--\r\n".encode()
        return self._send("POST", path, whole, f"multipart/form-data; boundary={boundary}")

    def _send(self, method: str, path: str, data: bytes | None, kind: str) -> Any:
        headers = {**self.login, "Accept": "application/hal+json", "Content-Type": kind}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def roll_out(server: HawkBit, package: Path, version: str, boards: list[str]) -> int:
    """Upload, and start the rollout; give its id."""
    name = package.stem
    module = {"name": name, "version": version, "type": "application"}
    (made,) = server.call("POST", "/softwaremodules", [module])
    server.upload(f"/softwaremodules/{made['id']}/artifacts", package)
    whole = {"name": name, "version": version, "type": "app", "modules": [{"id": made["id"]}]}
    (distribution,) = server.call("POST", "/distributionsets", [whole])
    rollout = {
        "name": f"{name} {version}",
        "distributionSetId": distribution["id"],
        "targetFilterQuery": f"id=in=({','.join(boards)})",
        "amountGroups": min(GROUPS, len(boards)),
        "type": "forced",
        "successCondition": {"condition": "THRESHOLD", "expression": GO_ON_AT_PERCENT},
        "successAction": {"action": "NEXTGROUP", "expression": ""},
        "errorCondition": {"condition": "THRESHOLD", "expression": STOP_AT_PERCENT},
        "errorAction": {"action": "PAUSE", "expression": ""},
    }
    number = int(server.call("POST", "/rollouts", rollout)["id"])
    _wait_until_ready(server, number)
    server.call("POST", f"/rollouts/{number}/start")
    return number


def _wait_until_ready(server: HawkBit, number: int) -> None:
    """HawkBit sorts the boards into groups after it has answered."""
    end = time.monotonic() + READY_S
    while (status := server.call("GET", f"/rollouts/{number}")["status"]) != "ready":
        if time.monotonic() > end:
            sys.exit(f"rollout {number} is still {status!r}")
        time.sleep(1)


if __name__ == "__main__":
    address, package_path, model_version, verdicts = sys.argv[1:]
    told = json.loads(Path(verdicts).read_text(encoding="utf-8"))["boards"]
    able = [board["board"] for board in told if board["runs"]]
    if not able:
        sys.exit("no board can run it: nothing was sent")
    if strange := [name for name in able if not NAME.fullmatch(name)]:
        sys.exit(f"hawkBit would read these names as a part of its query: {strange}: nothing was sent")
    print(f"rollout {roll_out(HawkBit(address), Path(package_path), model_version, able)} to {len(able)} boards")
