"""Device profiles: reading, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from edgekit.plan.profiles import ARCHS, PRECISIONS, VERIFIED, DeviceProfile, load_profile, profile_names
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_runtime.errors import ProfileError

GOOD = """
name = "my-board"
title = "My board"
arch = "aarch64"
targets = ["litert:cpu", "openvino:cpu"]
schemes = ["int8-static", "float16"]
precision = "f32"
verified = "no"

[source]
arch = "the board's data sheet"
"""


def write(folder: Path, text: str, name: str = "my-board.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_users_own_file_is_read_from_its_path(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, GOOD))
    assert profile == DeviceProfile(
        name="my-board",
        title="My board",
        arch="aarch64",
        targets=("litert:cpu", "openvino:cpu"),
        schemes=("int8-static", "float16"),
        precision="f32",
        verified="no",
        source={"arch": "the board's data sheet"},
    )


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    assert load_profile(str(write(tmp_path, GOOD))).name == "my-board"


def test_profiles_are_hashable(tmp_path: Path) -> None:
    assert len({load_profile(write(tmp_path, GOOD)), load_profile("x86-64")}) == 2


def test_the_snapshot_is_json_without_unknown_facts(tmp_path: Path) -> None:
    snapshot = load_profile(write(tmp_path, GOOD)).to_dict()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["targets"] == ["litert:cpu", "openvino:cpu"]
    assert not {"cores", "memory_mib", "accelerator"} & snapshot.keys()


def test_a_profile_can_name_the_delegate_of_a_target(tmp_path: Path) -> None:
    targets = GOOD.replace("litert:cpu", "litert:npu").replace("openvino:cpu", "litert:cpu")
    profile = load_profile(write(tmp_path, targets + '[delegates]\n"litert:npu" = "vx"\n'))
    assert profile.delegates == {"litert:npu": "vx"}
    assert profile.to_dict()["delegates"] == {"litert:npu": "vx"}
    assert "delegates" not in load_profile("coral-usb").to_dict()


@pytest.mark.parametrize("target", ["litert:npu", "openvino:cpu"])
def test_a_delegate_runs_only_a_litert_target_of_the_profile(tmp_path: Path, target: str) -> None:
    path = write(tmp_path, GOOD + f'[delegates]\n"{target}" = "vx"\n')
    with pytest.raises(ProfileError, match=f"delegates has '{target}'.*name one of litert:cpu"):
        load_profile(path)


def test_names_are_sorted_and_contain_the_documented_boards() -> None:
    names = profile_names()
    assert list(names) == sorted(names)
    assert {"raspberry-pi-5", "intel-cpu", "x86-64", "coral-usb", "jetson-orin-nano"} <= set(names)


@pytest.mark.parametrize(
    ("asked", "meant"), [("raspberry-pi5", "raspberry-pi-5"), ("intelcpu", "intel-cpu"), ("x86_64", "x86-64")]
)
def test_an_unknown_name_suggests_near_names_and_a_profile_of_ones_own(asked: str, meant: str) -> None:
    with pytest.raises(ProfileError, match=rf"(?s)did you mean .*{meant}.*\.toml"):
        load_profile(asked)


def test_an_unknown_name_without_near_names_lists_all() -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("toaster")
    assert "did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in profile_names())


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('title = "My board"', 'title = ""', "title"),
        ('title = "My board"', "title = 3", "title"),
        ('arch = "aarch64"', 'arch = "arm64"', "arch"),
        ('arch = "aarch64"', 'arch = ["aarch64"]', "arch"),
        ('targets = ["litert:cpu", "openvino:cpu"]', "targets = []", "targets"),
        ('targets = ["litert:cpu", "openvino:cpu"]', 'targets = "litert:cpu"', "targets"),
        ('targets = ["litert:cpu", "openvino:cpu"]', 'targets = ["litert"]', "targets"),
        ('targets = ["litert:cpu", "openvino:cpu"]', 'targets = ["litert:cpu", "litert:cpu"]', "targets"),
        ('targets = ["litert:cpu", "openvino:cpu"]', 'targets = [["litert:cpu"]]', "targets"),
        ('schemes = ["int8-static", "float16"]', 'schemes = ["int8"]', "schemes"),
        ('precision = "f32"', 'precision = "fp32"', "precision"),
        ('verified = "no"', "verified = false", "verified"),
        ('verified = "no"', 'verified = "no"\ncores = true', "cores"),
        ('verified = "no"', 'verified = "no"\ncores = 0', "cores"),
        ('verified = "no"', 'verified = "no"\nmemory_mib = 1.5', "memory_mib"),
        ('verified = "no"', 'verified = "no"\naccelerator = "gpu"', "accelerator"),
        ('verified = "no"', 'verified = "no"\ndelegates = "vx"', "delegates"),
        ('verified = "no"', 'verified = "no"\n[delegates]\n"litert:cpu" = "vxx"', "delegates"),
        ('arch = "the board\'s data sheet"', "", "source"),
        ('arch = "the board\'s data sheet"', "arch = 1", "source"),
        ('name = "my-board"', 'name = "My Board"', "name"),
        ('name = "my-board"', 'name = "your-board"', "name"),
    ],
)
def test_a_wrong_value_names_file_key_and_rule(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ProfileError, match=rf"{path}: {key} is .*; it must be "):
        load_profile(path)


@pytest.mark.parametrize("key", ["name", "title", "arch", "targets", "schemes", "precision", "verified", "source"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} =")]
    text = "\n".join(lines) if key != "source" else GOOD.partition("[source]")[0]
    if key == "arch":  # the [source] table has an entry of the same name
        text += '\narch = "the board\'s data sheet"'
    with pytest.raises(ProfileError, match=f"{key} is missing; it must be "):
        load_profile(write(tmp_path, text))


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '\n[limits]\nmemory = "1 GB"\n')
    with pytest.raises(ProfileError, match="unknown key 'limits'; known: name, title"):
        load_profile(path)


def test_a_scheme_no_engine_of_the_targets_can_hold_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace('["litert:cpu", "openvino:cpu"]', '["openvino:cpu"]')
    path = write(tmp_path, text.replace('"float16"', '"int16x8-static"'))
    with pytest.raises(ProfileError, match=r"'int16x8-static', which no engine of targets can hold.* litert"):
        load_profile(path)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name = 1\nname = 2"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=rf"{path} is not TOML"):
        load_profile(path)


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "absent.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ProfileError, match="Is a directory"):
        load_profile(tmp_path / "folder.toml")


def test_the_documented_example_is_a_profile_and_the_documented_keys_are_the_keys(
    tmp_path: Path, repository: Path
) -> None:
    page = (repository / "docs" / "adding-a-device.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert load_profile(write(tmp_path, example)).name == "my-board"
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == {field.name for field in fields(DeviceProfile)}
    allowed = {"schemes": SCHEMES, "arch": ARCHS, "precision": PRECISIONS, "verified": VERIFIED}
    for key, words in allowed.items():
        assert all(f"`{word}`" in rows[key] for word in words), key
