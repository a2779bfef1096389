"""The command line: help, exit codes and messages, without heavy imports."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgekit.cli import COMMANDS, cli


def edgekit(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def test_the_overview_lists_every_command_with_examples():
    done = edgekit("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in COMMANDS)
    assert "edgekit convert model.keras" in done.stdout


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_help(verb):
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_overview_and_a_dry_run_import_no_toolchain_and_no_rich(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"")
    script = (
        "import sys; from edgekit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'torch', 'openvino', 'nncf', 'keras', 'rich', 'PIL', 'ai_edge_litert'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "convert", str(tmp_path / "m.keras"), "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_dry_run_shows_the_budgets_of_a_search(tmp_path):
    for name in ("m.keras", "samples.npy"):
        (tmp_path / name).touch()
    typed = ["convert", tmp_path / "m.keras", "-q", "auto", "--calibrate", tmp_path / "samples.npy", "--dry-run"]
    printed = edgekit(*typed, "--max-latency-ms", "5").stdout
    assert "race       max_drop 0.01, max_latency_ms 5.0, objective latency, minutes 20" in printed


def test_a_dry_run_prints_the_plan_for_people_and_for_programs(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"")
    arguments = ["convert", tmp_path / "m.keras", "-d", "raspberry-pi-5", "--scale", "0.5", "--dry-run"]
    assert "raspberry-pi-5: litert-float32" in edgekit(*arguments).stdout
    plan = json.loads(edgekit(*arguments, "--json").stdout)
    assert plan["variants"][0]["name"] == "litert-float32"
    assert plan["preprocessing"]["scale"] == 0.5


def test_the_command_line_takes_precedence_over_the_plan_file(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"")
    (tmp_path / "plan.toml").write_text('model = "m.keras"\ndevice = ["intel-cpu"]\nquantize = ["float16"]')
    done = edgekit("convert", "--plan", tmp_path / "plan.toml", "-d", "raspberry-pi-4", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert [variant["name"] for variant in plan["variants"]] == ["litert-float16"]


def test_a_typed_zero_is_a_value(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"")
    (tmp_path / "d.npz").write_bytes(b"")
    (tmp_path / "plan.toml").write_text('model = "m.keras"\nevaluate = "d.npz"\nmax_drop = 0.5')
    done = edgekit("convert", "--plan", tmp_path / "plan.toml", "--max-drop", "0", "--dry-run", "--json")
    assert json.loads(done.stdout)["max_drop"] == 0
    assert edgekit("convert", tmp_path / "m.keras", "--scale", "0").returncode == 3
    assert edgekit("convert", tmp_path / "m.keras", "--samples", "0").returncode == 3


def test_metric_and_remedies_on_the_command_line_and_in_a_plan_file(tmp_path):
    for name, text in (("m.keras", ""), ("d.npz", ""), ("mine.py", "def score(outputs, labels): ...")):
        (tmp_path / name).write_text(text)
    (tmp_path / "plan.toml").write_text('model = "m.keras"\nevaluate = "d.npz"\nmetric = "mine.py:score"')
    planned = json.loads(edgekit("convert", "--plan", tmp_path / "plan.toml", "--dry-run", "--json").stdout)
    assert (planned["metric"], planned["remedies"]) == ("mine.py:score", True)
    typed = ("--evaluate", tmp_path / "d.npz", "--metric", f"{tmp_path / 'mine.py'}:other", "--no-remedies")
    planned = json.loads(edgekit("convert", tmp_path / "m.keras", *typed, "--dry-run", "--json").stdout)
    assert (planned["metric"], planned["remedies"]) == ("mine.py:other", False)


def test_examples_are_on_separate_lines():
    lines = [line.strip() for line in edgekit("convert", "--help").stdout.splitlines()]
    assert "edgekit convert model.keras -o model.edgekit" in lines
    assert not any("\b" in line or "\\b" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert"], 3, "no model given"),
        (["convert", "missing.keras"], 3, "missing.keras: no such file"),
        (["convert", "missing.keras", "--resize", "224"], 2, "H,W"),
        (["convert", "missing.keras", "--layout", "HWC"], 2, "NHWC"),
        (["convert", "--plan", "missing.toml"], 3, "missing.toml"),
        (["inspect", "missing.edgekit"], 6, "missing.edgekit"),
        (["verify", "missing.edgekit"], 6, "missing.edgekit"),
        (["run", "missing.edgekit", "x.npy"], 6, "missing.edgekit"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_bad_input_gives_one_message_and_its_exit_code(tmp_path, arguments, code, message):
    done = edgekit(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_devices_are_listed():
    done = edgekit("devices", "--json")
    names = [device["name"] for device in json.loads(done.stdout)]
    assert "raspberry-pi-5" in names
    assert "raspberry-pi-5" in edgekit("devices").stdout


@pytest.mark.needs_rich
def test_an_interrupted_training_prints_how_to_resume(tmp_path, monkeypatch):
    from edgekit import pipeline
    from edgekit.pruning import command

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "prune", interrupted)
    monkeypatch.setattr(pipeline, "convert", interrupted)
    monkeypatch.chdir(tmp_path)
    for file in ("m.keras", "d.npz"):
        (tmp_path / file).write_bytes(b"")
    for verb in ("prune", "convert"):
        asked = [verb, "m.keras", "--prune", "0.5", "--quiet", "--calibrate", "d.npz"]
        trained = CliRunner().invoke(cli, [*asked, "--train", "d.npz"])
        assert "finished epochs are kept: run the same command with --resume" in trained.output
        assert "--resume" not in CliRunner().invoke(cli, asked).output
