"""The fleet examples run: with a real store and shell, and with a listener in place of the servers.

No hawkBit and no Mender server is here: a listener records the requests and answers in the form of their documentation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle

VERDICTS = {
    "boards": [{"board": "cam-1", "runs": ["a"]}, {"board": "cam-2", "runs": []}, {"board": "cam-3", "runs": ["a"]}]
}


@pytest.fixture
def fleet(repository) -> Path:
    """The folder of the examples."""
    return repository / "examples" / "fleet"


@pytest.fixture
def listener():
    """A server that records (method, path, body) and returns prepared responses by path."""
    heard, answers = [], {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            heard.append((self.command, self.path, self.headers["Authorization"], body))
            waiting = answers.get(self.path, [{}])
            reply = json.dumps(waiting.pop(0) if len(waiting) > 1 else waiting[0]).encode()
            self.send_response(201)
            self.send_header("Location", "./made/77")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard, answers
    server.shutdown()
    server.server_close()


def run(script: Path, *arguments: object, **environment: str) -> str:
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hawkbit_gets_the_package_and_the_boards_that_can_run_it(fleet, listener, tmp_path):
    server, heard, answers = listener
    (tmp_path / "model.raucb").write_bytes(b"a package")
    (tmp_path / "boards.json").write_text(json.dumps(VERDICTS))
    answers["/rest/v1/softwaremodules"] = [[{"id": 4}]]
    answers["/rest/v1/distributionsets"] = [[{"id": 5}]]
    answers["/rest/v1/rollouts"] = [{"id": 6}]
    answers["/rest/v1/rollouts/6"] = [{"status": "creating"}, {"status": "ready"}]
    script = fleet / "hawkbit_rollout.py"
    login = {"HAWKBIT_USER": "me", "HAWKBIT_PASSWORD": "secret"}
    said = run(script, server, tmp_path / "model.raucb", "1.3", tmp_path / "boards.json", **login)
    assert said == "rollout 6 to 2 boards\n"
    assert [(method, path.removeprefix("/rest/v1")) for method, path, _, _ in heard] == [
        ("POST", "/softwaremodules"),
        ("POST", "/softwaremodules/4/artifacts"),
        ("POST", "/distributionsets"),
        ("POST", "/rollouts"),
        ("GET", "/rollouts/6"),
        ("GET", "/rollouts/6"),
        ("POST", "/rollouts/6/start"),
    ]
    assert b'filename="model.raucb"' in heard[1][3]
    assert b"\r\n\r\na package\r\n--" in heard[1][3]
    rollout = json.loads(heard[3][3])
    assert (rollout["distributionSetId"], rollout["targetFilterQuery"]) == (5, "id=in=(cam-1,cam-3)")
    assert rollout["amountGroups"] == 2


@pytest.mark.parametrize(
    ("name", "runs", "said"), [("x) or id==*", ["v"], "part of its query"), ("cam", [], "no board")]
)
def test_hawkbit_gets_no_request_for_invalid_names_or_without_boards(name, runs, said, fleet, listener, tmp_path):
    server, heard, _ = listener
    (tmp_path / "boards.json").write_text(json.dumps({"boards": [{"board": name, "runs": runs}]}))
    command = [sys.executable, fleet / "hawkbit_rollout.py", server, "model.raucb", "1.3", tmp_path / "boards.json"]
    login = {**os.environ, "HAWKBIT_USER": "me", "HAWKBIT_PASSWORD": "secret"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=login)
    assert done.returncode == 1
    assert said in done.stderr
    assert not heard


def test_mender_gets_the_artifact_and_the_boards_that_can_run_it(fleet, listener, tmp_path):
    server, heard, _ = listener
    (tmp_path / "model.mender").write_bytes(b"an artifact")
    (tmp_path / "boards.json").write_text(json.dumps(VERDICTS))
    script, artifact = fleet / "mender_rollout.py", tmp_path / "model.mender"
    said = run(script, server, artifact, "quarters-1.3", tmp_path / "boards.json", MENDER_TOKEN="t0ken")
    assert said == "deployment ./made/77 to 2 devices\n"
    assert [path for _, path, _, _ in heard] == [
        "/api/management/v1/deployments/artifacts",
        "/api/management/v1/deployments/deployments",
    ]
    assert {login for _, _, login, _ in heard} == {"Bearer t0ken"}
    assert heard[0][3].index(b'name="size"\r\n\r\n11\r\n') < heard[0][3].index(b"an artifact\r\n--")
    assert json.loads(heard[1][3])["devices"] == ["cam-1", "cam-3"]


def test_reports_are_collected_and_silent_boards_are_listed(fleet, tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\n[ "$1" != cam-2 ] || exit 255\nshift 2\nexec {sys.executable} "$@"\n')
    ssh.chmod(0o755)
    seen = {**os.environ, "SSH": str(ssh), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(fleet / "collect.sh"), str(tmp_path / "fleet"), "cam-1", "cam-2", "cam-3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=seen)
    assert (done.returncode, done.stderr) == (1, "did not answer: cam-2\n")
    assert sorted(path.name for path in (tmp_path / "fleet").iterdir()) == ["cam-1.json", "cam-3.json"]
    from edgekit.fleet.inventory import read_inventory

    assert [board.name for board in read_inventory(tmp_path / "fleet")] == ["cam-1", "cam-3"]


def test_the_application_reloads_while_it_runs_and_commits_the_trial(fleet, linear, tmp_path):
    ones = np.ones((1, 4), np.float32)
    store, runtime = tmp_path / "store", (sys.executable, "-m", "edgekit_runtime")
    np.save(tmp_path / "sample.npy", ones)
    for version, factor in (("1.0", 1), ("1.1", 2)):
        parts = linear(factor * np.eye(4, dtype=np.float32), ones[None], model_name="scale", model_version=version)
        write_bundle(*parts, tmp_path / f"{version}.edgekit")

    def install(version: str) -> None:
        command = [*runtime, "install", str(tmp_path / f"{version}.edgekit"), str(store)]
        subprocess.run(command, capture_output=True, check=True)

    install("1.0")
    command = [sys.executable, str(fleet / "application.py"), str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as application:

        def ask() -> list[list[float]]:
            application.stdin.write(f"{tmp_path}/sample.npy\n")
            application.stdin.flush()
            return json.loads(application.stdout.readline())

        assert ask() == [[1, 1, 1, 1]]
        install("1.1")
        assert ask() == [[2, 2, 2, 2]]
        assert ask() == [[2, 2, 2, 2]]  # whoever answers again has sent the heartbeat before
        told = subprocess.run([*runtime, "status", str(store), "--json"], capture_output=True, text=True, check=True)
        assert json.loads(told.stdout)["trial"] is None
        (store / "state.json").unlink()
        (store / "state.json").mkdir()  # no heartbeat can be sent: the application goes on
        assert [ask(), ask()] == [[[2, 2, 2, 2]]] * 2
        application.stdin.close()
