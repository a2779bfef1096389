"""The README's commands, run as they are written, and what they print."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def commands(text):
    """Every command of the console blocks, its continued lines joined."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.fixture(scope="module")
def place(repository, tmp_path_factory):
    """A folder in which the paths of the README lead somewhere, and a shell finds the commands."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "edgekit").mkdir()
    (folder / "edgekit" / "demo").symlink_to(repository / "edgekit" / "demo")
    (folder / "bin").mkdir()
    tool = folder / "bin" / "edgekit"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m edgekit "$@"\n')
    tool.chmod(0o755)
    return folder


def shell(command, place):
    environment = os.environ | {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment["EDGEKIT_CACHE"] = str(place / "cache")
    return subprocess.run(
        command, shell=True, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
@pytest.mark.needs_rich
@pytest.mark.needs_image
def test_every_edgekit_command_works_and_prints_what_is_shown(readme, place):
    typed = [command for command in commands(readme) if command.startswith("edgekit ")]
    assert [command.split()[1] for command in typed] == ["convert", "layers", "inspect", "verify", "run"]
    printed = [shell(command, place) for command in typed]
    assert [done.returncode for done in printed] == [0] * 5, [done.stderr for done in printed]
    converted, *_, ran = (done.stdout for done in printed)
    for variant in ("litert-int8-static", "openvino-int8-static"):
        assert variant in converted
        assert variant in readme
    assert re.search(r"^\s+\d\.\d+\s+3 \(3\)", ran, re.MULTILINE)  # the digit it was given

    (python,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "edgekit_runtime" in block]
    before = "import numpy as np\nfrom PIL import Image\n"
    before += "image = np.asarray(Image.open('edgekit/demo/digit-8.png'))[..., None]\n"
    (place / "board.py").write_text(f"{before}{python}\nprint('read', scores.argmax())\n")
    done = shell(f'"{sys.executable}" board.py', place)
    assert "Placement(" in done.stdout, done.stderr
    assert "read 8" in done.stdout


def test_every_extra_and_target_it_names_exists(readme, repository):
    for distribution, folder in (("edgekit", "."), ("edgekit-runtime", "runtime")):
        project = tomllib.loads((repository / folder / "pyproject.toml").read_text())["project"]
        named = re.findall(rf"'{distribution}\[([\w,]+)\]'", readme)
        assert named
        assert set(",".join(named).split(",")) <= set(project["optional-dependencies"])
    makefile = (repository / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_leads_somewhere(readme, repository):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not Path(repository / link).exists()] == []
