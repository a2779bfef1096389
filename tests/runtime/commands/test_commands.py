"""`python -m edgekit_runtime`: the output and the exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime import __main__ as command
from edgekit_runtime.commands.input_files import read_sample
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import Golden, Manifest, OutputSpec, Postprocessing, Variant

Make = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
COMMAND = [sys.executable, "-m", "edgekit_runtime"]


@pytest.fixture
def x_path(tmp_path: Path) -> Path:
    """An input of the classifier."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(5).normal(size=(1, 2, 2, 3)).astype(np.float32))
    return path


def run(*args: Any) -> int:
    return command.main([str(arg) for arg in args])


def test_inspect_describes_the_bundle_and_the_placement(bundle_path: Path, capsys: Capture) -> None:
    assert run("inspect", bundle_path) == 0
    printed = capsys.readouterr().out
    assert "quarters 1.0" in printed
    assert "image  float32 [1, 2, 2, 3]" in printed
    assert "null-float32  null:cpu  float32" in printed
    assert f"runs null-float32 on null:cpu (numpy {np.__version__})" in printed


@pytest.mark.parametrize(("old", "new"), [("info", "inspect"), ("check", "verify")])
def test_the_old_name_of_a_command_is_accepted_but_not_listed(
    old: str, new: str, bundle_path: Path, capsys: Capture
) -> None:
    outputs = []
    for name in (old, new):
        assert run(name, bundle_path) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    with pytest.raises(SystemExit):
        run("--help")
    assert f"{old}|" not in capsys.readouterr().out


def test_inspect_as_json(make: Make, capsys: Capture) -> None:
    path = make(folder=True)
    assert run("inspect", path, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["manifest"] == json.loads((path / "manifest.json").read_bytes())
    assert record["manifest"]["model"] == {"name": "quarters", "version": "1.0"}
    assert record["placement"]["variant"] == "null-float32"


def test_verify_reports_every_variant(make: Make, variant: Variant, capsys: Capture) -> None:
    path = make(variant, replace(variant, name="future", engine="future"))
    assert run("verify", path) == 0
    report = capsys.readouterr().out.splitlines()
    assert report[0] == "null-float32: proven"
    assert report[1].startswith("  output 'scores' differs by ")
    assert report[2].startswith("future: cannot run: there is no engine 'future'")


def test_verify_fails_when_a_variant_is_wrong(make: Make, variant: Variant, npy: Any, capsys: Capture) -> None:
    other = replace(variant, name="wrong", golden=Golden(("odd.npy",), (0.1,)))
    path = make(variant, other, also={"odd.npy": npy(np.ones((3, 1, 4), np.float32))})
    assert run("verify", path, "--json") == 5
    out, err = capsys.readouterr()
    assert [v["state"] for v in json.loads(out)["variants"]] == ["proven", "wrong"]
    assert json.loads(out)["ok"] is False
    assert err.startswith("error: wrong: ")
    assert run("verify", path, "--require", "null-float32") == 0


def test_verify_fails_when_no_variant_can_run(make: Make, variant: Variant, capsys: Capture) -> None:
    assert run("verify", make(replace(variant, engine="future"))) == 7
    assert "no variant can run" in capsys.readouterr().err


def test_verify_fails_on_a_damaged_file_that_no_variant_uses(make: Make, capsys: Capture) -> None:
    path = make(also={"extra.bin": b"abc"}, folder=True)
    (path / "extra.bin").write_bytes(b"abd")
    assert run("inspect", path) == 0
    assert run("verify", path) == 6
    assert "extra.bin is not the file that was packed" in capsys.readouterr().err


def test_run_prints_the_best_labels(bundle_path: Path, x_path: Path, weights: np.ndarray, capsys: Capture) -> None:
    scores = np.load(x_path).reshape(12) @ weights.reshape(12, 4)
    best = int(np.argmax(scores))
    label = ["north", "east", "south", "west"][best]
    assert run("run", bundle_path, x_path, "--top", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("runs null-float32 on null:cpu")
    assert lines[2].split() == [f"{scores[best]:.4f}", label, f"({best})"]
    assert run("run", bundle_path, x_path, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["variant"] == "null-float32"
    assert record["outputs"]["scores"]["top"][0]["label"] == label


def test_inspect_describes_a_bundle_that_cannot_run_here(make: Make, variant: Variant, capsys: Capture) -> None:
    path = make(replace(variant, engine="abacus"))
    assert run("inspect", path) == 7
    out, err = capsys.readouterr()
    assert out.startswith("quarters 1.0\n")
    assert "runs" not in out
    assert "there is no engine 'abacus'" in err
    assert run("inspect", path, "--json") == 7
    record = json.loads(capsys.readouterr().out)
    assert record["manifest"]["model"]["name"] == "quarters"
    assert record["placement"] is None


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_json_is_valid_with_numbers_that_are_not_finite(bundle_path: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "large.npy", np.full((1, 2, 2, 3), 3e38, np.float32))
    assert run("run", bundle_path, tmp_path / "large.npy", "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {best["value"] for best in found["outputs"]["scores"]["top"]} & {"Infinity", "-Infinity", "NaN"}


def test_run_prints_the_declared_postprocessing(make: Make, x_path: Path, weights: np.ndarray, capsys: Capture) -> None:
    scores = np.load(x_path).reshape(12) @ weights.reshape(12, 4)
    shares = np.exp(scores) / np.exp(scores).sum()
    order = np.argsort(-shares)
    path = make(postprocessing=Postprocessing("scores", "softmax", top=3))
    assert run("run", path, x_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)["answers"]
    assert [each["label"] for each in found] == [("north", "east", "south", "west")[i] for i in order[:3]]
    assert found[0]["score"] == pytest.approx(shares.max(), rel=1e-5)
    assert found[0]["box"] is None
    assert run("run", path, x_path, "--top", 1) == 0
    _, title, line = capsys.readouterr().out.splitlines()
    assert (title, line.split()) == ("answers", [f"{shares.max():.4f}", found[0]["label"], f"({order[0]})"])
    assert run("inspect", path) == 0
    assert "  answers  classes by softmax of scores, at most 3, of 0 or more" in capsys.readouterr().out.splitlines()


def test_run_prints_the_coordinates_of_boxes(
    make: Make, files: dict[str, bytes], npy: Any, x_path: Path, capsys: Capture
) -> None:
    weights = np.zeros((2, 2, 3, 5), np.float32)
    weights[0, 0, 0] = [30, 20, 8, 4, 0.75]  # centre, size and score of a box, for the first pixel's red
    inputs = np.load(io.BytesIO(files["golden/x.npy"]))
    built = {
        "labels.txt": b"thing\n",
        "variants/null-float32/weights.npy": npy(weights),
        "golden/y.npy": npy(inputs.reshape(3, 1, 12) @ weights.reshape(12, 5)),
    }
    means = Postprocessing("found", boxes="found", box_format="cxcywh", threshold=0.5)
    path = make(also=built, outputs=(OutputSpec("found", (1, 5), "float32", "labels.txt"),), postprocessing=means)
    np.save(x_path, np.ones((1, 2, 2, 3), np.float32))
    assert run("run", path, x_path) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == [
        "0.7500",
        "thing (0)  top 18, left 26, bottom 22, right 34",
    ]
    np.save(x_path, np.ones((1, 2, 2, 3), np.float32) / 2)
    assert run("run", path, x_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "answers: none"
    assert run("inspect", path) == 0
    declared = "boxes (cxcywh) in found by found, at most 5, of 0.5 or more, overlapping by at most 0.5"
    assert f"  answers  {declared}" in capsys.readouterr().out.splitlines()


def test_run_prints_values_without_labels(make: Make, x_path: Path, capsys: Capture) -> None:
    path = make(outputs=(OutputSpec("scores", (1, 4), "float32"),))
    assert run("run", path, x_path, "--top", 3) == 0
    report = capsys.readouterr().out
    assert "scores  float32 [1, 4]" in report
    assert len(report.partition("first ")[2].split(", ")) == 3


def test_run_writes_the_outputs(bundle_path: Path, x_path: Path, tmp_path: Path) -> None:
    assert run("run", bundle_path, x_path, "--output", tmp_path / "y.npy") == 0
    assert run("run", bundle_path, x_path, "--output", tmp_path / "y.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["scores"], np.load(tmp_path / "y.npy"))


def test_run_takes_inputs_by_name(bundle_path: Path, x_path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.load(x_path))
    assert run("run", bundle_path, tmp_path / "x.npz") == 0


@pytest.mark.parametrize("shape", [(5, 5, 3), (1, 2, 2, 3)])
def test_run_preprocesses_arrays_with_raw(
    bundle_path: Path, tmp_path: Path, capsys: Capture, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "image.npy", np.zeros(shape, np.uint8))
    assert run("run", bundle_path, tmp_path / "image.npy") == 7
    assert run("run", bundle_path, tmp_path / "image.npy", "--raw") == 0
    err = capsys.readouterr().err
    assert "input 'image'" in err
    assert "; for a raw image use --raw, which applies the declared preprocessing" in err


def test_run_advises_raw_even_without_preprocessing(
    make: Make, manifest: Manifest, tmp_path: Path, capsys: Capture
) -> None:
    path = make(inputs=(replace(manifest.inputs[0], preprocessing=None),))
    np.save(tmp_path / "image.npy", np.zeros((2, 2, 3), np.uint8))
    assert run("run", path, tmp_path / "image.npy") == 7
    assert capsys.readouterr().err.endswith("its shape is [2, 2, 3]; for a raw image use --raw\n")
    assert run("run", path, tmp_path / "image.npy", "--raw") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--threads", "fast"], "'fast' is not N|auto"), (["--isolate", "0"], "0 is not a time above 0")],
)
def test_the_tool_refuses_wrong_option_values(bundle_path: Path, options: list[str], message: str) -> None:
    from click.testing import CliRunner

    from edgekit.cli import cli

    done = CliRunner().invoke(cli, ["run", str(bundle_path), "x.npy", *options])
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_or_changed_npz_is_refused(x_path: Path, tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "broken.npz"
    save(path, image=np.load(x_path))
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"broken\.npz: cannot be read as \.npz"):
            read_sample(str(path), ())
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x2D]) + whole[place + 1 :])
        with suppress(DataError):  # or it is read: not every byte of a ZIP says something
            read_sample(str(path), ())


def test_a_npy_whose_header_does_not_close_is_refused(x_path: Path) -> None:
    x_path.write_bytes(x_path.read_bytes().replace(b"2, 3), }", b"2, 3 , }"))
    with pytest.raises(DataError, match=r"x\.npy: cannot be read as \.npy"):
        read_sample(str(x_path), ())


def test_run_refuses_a_truncated_npz_without_a_traceback(bundle_path: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 2, 2, 3), np.float32))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:100])
    assert run("run", bundle_path, tmp_path / "x.npz") == 3
    assert "x.npz: cannot be read as .npz" in capsys.readouterr().err


@pytest.mark.needs_image
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_run_takes_images_of_any_mode(bundle_path: Path, tmp_path: Path, mode: str) -> None:
    from PIL import Image

    Image.new(mode, (7, 5)).save(tmp_path / "image.png")
    assert run("run", bundle_path, tmp_path / "image.png") == 0


@pytest.mark.needs_image
def test_run_refuses_a_file_that_is_not_an_image(bundle_path: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "image.png").write_bytes(b"not a picture")
    assert run("run", bundle_path, tmp_path / "image.png") == 3
    assert "image.png: cannot be read as an image" in capsys.readouterr().err


def test_run_names_the_extra_for_images(
    bundle_path: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert run("run", bundle_path, tmp_path / "image.png") == 3
    assert "pip install 'edgekit-runtime[image]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["inspect", "nowhere.edgekit"], 6, "error: nowhere.edgekit: cannot be read: No such file or directory"),
        (["run", "BUNDLE", "X", "--require", "gpu"], 7, "matches require='gpu'"),
        (["inspect", "BUNDLE", "--device", "toaster"], 3, "no device 'toaster', only auto"),
        (["run", "BUNDLE", "nowhere.npy"], 3, "nowhere.npy: cannot be read"),
        pytest.param(["run", "BUNDLE", "BUNDLE"], 3, "cannot be read as an image", marks=pytest.mark.needs_image),
        (["run", "BUNDLE", "X", "--output", "nowhere/y.npy"], 3, "nowhere/y.npy: cannot be written"),
        (["run", "BUNDLE", "X", "--output", "y.txt"], 3, "wanted a name ending in .npz, or in .npy"),
    ],
)
def test_an_error_is_one_clear_line_and_its_familys_code(
    bundle_path: Path, x_path: Path, capsys: Capture, args: list[str], code: int, message: str
) -> None:
    places = {"BUNDLE": str(bundle_path), "X": str(x_path)}
    assert run(*(places.get(arg, arg) for arg in args)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.parametrize("verb", ["inspect", "run", "verify", "measure"])
def test_isolate_runs_in_a_child_process(verb: str, bundle_path: Path, x_path: Path, capsys: Capture) -> None:
    arguments = {"run": [x_path], "measure": ["--seconds", "0.05"]}.get(verb, [])
    threads = "1" if verb == "verify" else "auto"
    assert run(verb, bundle_path, *arguments, "--isolate", "20", "--threads", threads, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record.get("events", []) == []
    if verb == "measure":
        assert record["peak_memory_bytes"] is None


def test_a_lost_variant_is_reported_on_stderr_and_in_json(
    make: Make, variant: Variant, x_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_its_child(path: str, specs: Any) -> Any:
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        return read_sample(path, specs)

    monkeypatch.setattr(command, "read_sample", kill_its_child)
    path = make(variant, replace(variant, name="second"))
    assert run("run", path, x_path, "--isolate", "--json") == 0
    out, err = capsys.readouterr()
    assert err == "lost null-float32: crashed: its process was ended by SIGKILL; now second runs\n"
    (event,) = json.loads(out)["events"]
    assert (event["lost"], event["now"]) == ("null-float32", "second")
    assert json.loads(out)["variant"] == "second"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delegate-options", "usb"], "--delegate-options needs a --delegate: name one"),
        (["--delegate", "vx", "--delegate-options", "fast"], "--delegate-options: delegate options are written name="),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_wrong_delegate_options_are_refused_with_the_right_form(
    verb: str, bundle_path: Path, capsys: Capture, options: list[str], message: str
) -> None:
    assert run(verb, bundle_path, *options) == 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "verify"])
def test_the_tools_command_has_the_same_options(verb: str, capsys: Capture) -> None:
    from edgekit.cli import cli

    with pytest.raises(SystemExit):
        run(verb, "--help")
    runtimes = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    tools = {name for param in cli.get_command(None, verb).params for name in param.opts if name.startswith("--")}
    assert tools | {"--help"} == runtimes


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["dance"],
        ["run", "x"],
        ["inspect", "x", "--threads", "0"],
        ["inspect", "x", "--threads", "fast"],
        ["verify", "x", "--threads", "auto"],
        ["inspect", "x", "--isolate", "0"],
        ["inspect", "x", "--isolate", "nan"],
        ["inspect", "x", "--isolate", "1e8"],
        ["measure", "x", "--seconds", "inf"],
        ["inspect", "x", "--top", "1"],
    ],
)
def test_a_usage_error_has_exit_code_2(args: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        run(*args)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_closed_pipe_is_not_reported(bundle_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "inspect", str(bundle_path)], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_is_quiet(bundle_path: Path, tmp_path: Path) -> None:
    # The input is a pipe into which nobody writes: the command waits in reading it until it is interrupted.
    fifo = tmp_path / "x.npy"
    os.mkfifo(fifo)
    child = subprocess.Popen([*COMMAND, "run", str(bundle_path), str(fifo)], stderr=subprocess.PIPE, text=True)
    writer = None
    while writer is None:
        assert child.poll() is None
        with suppress(OSError):  # there is no reader yet
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    os.close(writer)
    assert (child.returncode, err) == (130, "")
