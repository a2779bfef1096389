"""The store on a board: installation, trial, rollback, pruning, and reloading a running model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit_runtime import load, open_bundle
from edgekit_runtime.__main__ import main
from edgekit_runtime.errors import (
    BundleError,
    DigestMismatch,
    EngineError,
    IncompatibleDevice,
    MalformedBundle,
    NotAnUpdate,
    PlanError,
    StoreError,
)
from edgekit_runtime.format.manifest import Manifest
from edgekit_runtime.store import state, trial
from edgekit_runtime.store.generations import current, generations
from edgekit_runtime.store.install import InstallOptions, InstallResult, install_bundle
from edgekit_runtime.store.prune import prune
from edgekit_runtime.store.self_check import self_check
from edgekit_runtime.store.status import status
from edgekit_runtime.store.trial import boot, commit, heartbeat, rollback

Bundles = Callable[..., Path]
AT_ONCE = InstallOptions(commit=True)
SWITCHES = 12  # of a model that is in use
IMAGE = np.random.default_rng(1).normal(size=(1, 2, 2, 3)).astype(np.float32)


@pytest.fixture
def version(manifest: Manifest, files: dict[str, bytes], npy: Callable[[Any], bytes], tmp_path: Path) -> Bundles:
    """Write a version of the classifier with its own weights; ``broken`` gives it wrong golden outputs."""

    def write(number: str, *, broken: bool = False, **parts: Any) -> Path:
        factor = 1 + int.from_bytes(number.encode(), "big") % 97
        changed = {
            **files,
            "golden/y.npy": npy(load_npy(files["golden/y.npy"]) * factor + broken),
            "variants/null-float32/weights.npy": npy(load_npy(files["variants/null-float32/weights.npy"]) * factor),
        }
        variants = (replace(manifest.variants[0], golden=replace(manifest.variants[0].golden, max_abs=(1e-2,))),)
        path = tmp_path / f"{number}.edgekit"
        write_bundle(replace(manifest, **{"model_version": number, "variants": variants, **parts}), changed, path)
        return path

    return write


def load_npy(data: bytes) -> np.ndarray:
    import io

    return np.load(io.BytesIO(data))


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The path of a store that does not exist yet."""
    return str(tmp_path / "store")


def install(path: Path, store: str, options: InstallOptions = AT_ONCE) -> InstallResult:
    with open_bundle(path) as bundle:
        return install_bundle(bundle, store, options)


def tree(folder: str) -> dict[str, tuple[bytes, int]]:
    """Return content and modification time of every file."""
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes(), path.stat().st_mtime_ns
    return found


# What is installed. ----------------------------------------------------------------------------------


def test_installing_writes_the_bundle_as_a_folder_that_load_opens(version: Bundles, store: str) -> None:
    path = version("1.0")
    done = install(path, store)
    assert done.changed
    with open_bundle(path) as bundle, load(store) as model:
        assert model.manifest == bundle.manifest
        assert model.generation == done.generation
        assert bundle.unlisted()["manifest.json"] == Path(store, "current", "manifest.json").read_bytes()
    assert status(store).generations[0].role == "current"


def test_installing_writes_little_more_than_the_bundle(version: Bundles, store: str) -> None:
    done = install(version("1.0"), store)
    assert done.bundle_bytes == sum(len(content) for content, _ in tree(f"{store}/current").values())
    assert done.written_bytes == done.bundle_bytes + Path(store, "state.json").stat().st_size


def test_installing_the_current_generation_writes_nothing(version: Bundles, store: str) -> None:
    path = version("1.0")
    install(path, store)
    before = tree(store)
    again = install(path, store, InstallOptions())
    assert (again.changed, again.written_bytes) == (False, 0)
    for step in (commit, heartbeat, lambda s: boot(s, lambda _: "")):
        assert step(store).written_bytes == 0
    assert prune(store).written_bytes == 0
    assert tree(store) == before


def test_an_existing_older_generation_is_not_rewritten(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    install(version("1.1"), store)
    done = install(version("1.0"), store, InstallOptions(allow_downgrade=True, commit=True))
    assert done.changed
    assert done.written_bytes < 1000  # the state alone


@pytest.mark.parametrize(
    ("new", "have", "older"),
    [
        ("1.9", "1.10", True),
        ("1.10", "1.9", False),
        ("1.0", "1.0.0", False),
        ("1.0-rc1", "1.0", True),
        ("1.0rc2", "1.0rc10", True),
        ("v2", "1", False),
        ("2.0+build7", "2.0+build9", False),
        ("2026-01-31", "2026-02-01", True),
        ("0.9", "1", True),
    ],
)
def test_an_older_version_is_refused_unless_allowed(
    new: str, have: str, older: bool, version: Bundles, store: str
) -> None:
    install(version(have), store)
    if older:
        with pytest.raises(NotAnUpdate, match="allow a downgrade"):
            install(version(new), store)
    assert install(version(new), store, InstallOptions(allow_downgrade=older)).changed


def test_versions_that_cannot_be_compared_are_refused(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    with pytest.raises(NotAnUpdate, match="cannot be compared"):
        install(version("newest"), store)


def test_another_model_is_refused_unless_allowed(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    other = version("1.1", model_name="halves")
    with pytest.raises(NotAnUpdate, match="'quarters', this is 'halves'"):
        install(other, store)
    assert install(other, store, InstallOptions(allow_other_model=True)).changed


@pytest.mark.parametrize(
    ("devices", "device"),
    [
        (({"name": "z", "arch": "s390x", "variants": []},), None),
        (({"name": "z", "arch": os.uname().machine, "variants": []},), "raspberry-pi-5"),
        ((), "raspberry-pi-5"),
    ],
)
def test_a_bundle_for_other_boards_is_refused(devices: Any, device: str | None, version: Bundles, store: str) -> None:
    path = version("1.0", devices=devices)
    with pytest.raises(IncompatibleDevice, match="'quarters' is made for"):
        install(path, store, InstallOptions(device=device))
    assert not os.path.exists(store)
    assert install(path, store, InstallOptions(any_board=True)).changed


def test_a_bundle_without_a_runnable_variant_is_refused(version: Bundles, store: str, manifest: Manifest) -> None:
    needs = replace(manifest.variants[0].requirements, memory_bytes=1 << 49)
    with pytest.raises(IncompatibleDevice, match="MiB of memory"):
        install(version("1.0", variants=(replace(manifest.variants[0], requirements=needs),)), store)


def test_a_damaged_bundle_does_not_change_the_store(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    before = tree(store)
    path = version("1.1")
    data = bytearray(path.read_bytes())
    data[data.index(b"\x93NUMPY") + 140] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        install(path, store)
    assert tree(store) == before
    assert current(store) in generations(store)


def test_an_interrupted_installation_leaves_no_files(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    before = tree(store)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with open_bundle(version("1.1")) as bundle, pytest.raises(KeyboardInterrupt):
        install_bundle(bundle, store, AT_ONCE, interrupt)
    assert tree(store) == before
    assert os.listdir(f"{store}/generations") == generations(store)


def test_missing_disk_space_is_detected_before_writing(
    version: Bundles, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(version("1.0"), store)
    before = tree(store)
    monkeypatch.setattr("edgekit_runtime.store.install.free_bytes", lambda _: 70_000)
    with pytest.raises(StoreError, match="nothing was written"):
        install(version("1.1"), store)
    assert tree(store) == before


def test_a_folder_with_other_files_is_refused(version: Bundles, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(StoreError, match="is not a store, and not empty"):
        install(version("1.0"), str(tmp_path / "photos"))


def test_a_read_only_store_raises_an_error(version: Bundles, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be a store"):
        install(version("1.0"), str(tmp_path / "file"))


def test_concurrent_installers_leave_one_intact_current_generation(version: Bundles, store: str) -> None:
    paths = [version(f"1.{number}") for number in range(6)]
    command = [sys.executable, "-m", "edgekit_runtime", "install", "--allow-downgrade"]
    children = [subprocess.Popen([*command, str(path), store], stdout=subprocess.DEVNULL) for path in paths]
    assert [child.wait(timeout=120) for child in children] == [0] * 6
    with open_bundle(store) as bundle:
        bundle.verify_all()
    assert not [name for name in os.listdir(f"{store}/generations") if name.startswith(".")]


def test_progress_goes_from_zero_to_the_total(version: Bundles, store: str) -> None:
    run_json: list[tuple[int, int]] = []
    with open_bundle(version("1.0")) as bundle:
        install_bundle(bundle, store, AT_ONCE, lambda done, total: run_json.append((done, total)))
    assert run_json == sorted(run_json)
    assert run_json[-1][0] == run_json[-1][1]


def test_too_many_tries_are_refused(version: Bundles, store: str) -> None:
    assert main(["install", str(version("1.0")), store, "--tries", "5000"]) == PlanError.exit_code
    assert not os.path.exists(store)


def test_a_link_to_another_folder_is_refused(version: Bundles, store: str, tmp_path: Path) -> None:
    install(version("1.0"), store)
    os.unlink(f"{store}/current")
    os.symlink(tmp_path, f"{store}/current")
    with pytest.raises(MalformedBundle, match="not to a generation"):
        open_bundle(store)


# Trials. ---------------------------------------------------------------------------------------------


def good(_: str) -> str:
    return ""


def test_a_trial_is_committed_after_the_required_number_of_checks(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    install(version("1.1"), store, InstallOptions(wanted=2))
    assert boot(store, good).did == trial.COUNTED
    assert boot(store, good).did == trial.COMMITTED
    assert status(store).state == "committed"
    assert boot(store, good).did == trial.NOTHING


def test_a_failed_check_rolls_back_to_the_last_good_generation(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    second = install(version("1.1"), store, InstallOptions()).generation
    turn = boot(store, lambda folder: f"{os.path.basename(folder)} smokes")
    assert (turn.did, turn.generation, turn.why) == (trial.ROLLED_BACK, first, f"{second} smokes")
    assert current(store) == first
    with pytest.raises(StoreError, match="smokes: to install it all the same, use --again"):
        install(version("1.1"), store)
    assert install(version("1.1"), store, InstallOptions(again=True)).changed


def test_too_many_starts_roll_back_to_the_last_good_generation(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    install(version("1.1"), store, InstallOptions(most_tries=2, confirm=state.HEARTBEAT))

    def crash(_: str) -> str:
        raise KeyboardInterrupt  # the power goes, or the board hangs

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            boot(store, crash)
    turn = boot(store, good)
    assert (turn.did, turn.generation) == (trial.ROLLED_BACK, first)
    assert turn.why == "2 starts, and only 0 of 1 successful checks"


def test_only_heartbeats_count_with_confirm_heartbeat(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    install(version("1.1"), store, InstallOptions(confirm=state.HEARTBEAT, wanted=2))
    assert boot(store, good).did == trial.COUNTED
    assert status(store).trial.good == 0
    assert heartbeat(store).did == trial.COUNTED
    assert heartbeat(store).did == trial.COMMITTED


def test_heartbeats_of_the_old_generation_do_not_count(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    with load(store) as model:
        install(version("1.1"), store, InstallOptions())
        assert not model.heartbeat()
        assert model.reload_if_changed()
        assert model.heartbeat()
    assert status(store).state == "committed"


def test_a_trial_during_a_trial_rolls_back_to_the_last_good_generation(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    install(version("1.1"), store, InstallOptions())
    install(version("1.2"), store, InstallOptions())
    assert rollback(store).generation == first


def test_a_rollback_skips_damaged_generations(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store, InstallOptions(commit=True, keep=9)).generation
    second = install(version("1.1"), store, InstallOptions(commit=True, keep=9)).generation
    install(version("1.2"), store, InstallOptions(commit=True, keep=9))
    weights = Path(store, "generations", second, "variants/null-float32/weights.npy")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert rollback(store).generation == first


def test_installing_a_damaged_generation_rewrites_it(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    install(version("1.1"), store)
    weights = Path(store, "generations", first, "variants/null-float32/weights.npy")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert (
        install(version("1.0"), store, InstallOptions(commit=True, allow_downgrade=True)).written_bytes
        > weights.stat().st_size
    )
    with open_bundle(store) as bundle:
        bundle.verify_all()


@pytest.mark.parametrize("damage", ["variants/null-float32/weights.npy", "manifest.json", "."])
@pytest.mark.parametrize("number", ["1.0", "1.1"])
def test_installing_a_damaged_current_generation_repairs_it(
    number: str, damage: str, version: Bundles, store: str
) -> None:
    install(version("1.0"), store)
    what = Path(store, "current", damage)
    if what.is_dir():
        shutil.rmtree(what.resolve())
    else:
        what.write_bytes(what.read_bytes()[:-1] + b"?")
    done = install(version(number), store)
    assert (done.changed, done.on_trial) == (True, False)
    with open_bundle(store) as bundle:
        bundle.verify_all()
        assert bundle.manifest.model_version == number
    prune(store, keep=1)
    assert os.listdir(f"{store}/generations") == [done.generation]


def test_a_generation_on_trial_is_not_good_when_the_next_one_begins(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    second = install(version("1.1"), store, InstallOptions()).generation
    third = state.GenerationTrial("0" * 16, None, state.SELF_CHECK, 1, 3)
    both = state.with_trial(state.read_state(store), second, third)
    assert state.rollback_targets(both, second) == state.rollback_targets(both, third.generation) == (first,)
    assert state.current_trial(both, second) is not None


def test_a_rollback_without_an_older_generation_is_refused(version: Bundles, store: str) -> None:
    done = install(version("1.0"), store, InstallOptions())
    with pytest.raises(StoreError, match="no good generation before it"):
        rollback(store)
    assert current(store) == done.generation


def test_without_a_state_file_the_current_generation_is_good(version: Bundles, store: str) -> None:
    first = install(version("1.0"), store).generation
    Path(store, "state.json").write_bytes(b"\0" * 100)
    install(version("1.1"), store, InstallOptions())
    assert rollback(store).generation == first


def test_an_unreadable_state_file_raises_an_error_and_is_not_overwritten(version: Bundles, store: str) -> None:
    generation = install(version("1.0"), store).generation
    Path(store, "state.json").unlink()
    Path(store, "state.json").mkdir()
    for step in (status, commit, heartbeat, rollback, prune, lambda s: install(version("1.1"), s)):
        with pytest.raises(StoreError, match=r"its state\.json cannot be read"):
            step(store)
    assert generations(store) == [generation]


def test_an_oversized_state_file_is_ignored(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    os.truncate(f"{store}/state.json", 1 << 33)
    assert status(store).trial is None


def test_the_self_check_runs_in_a_child_process(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    assert self_check(f"{store}/current") == ""
    install(version("1.1", broken=True), store)
    assert "the outputs differ" in self_check(f"{store}/current")
    assert "longer than 0.001 s" in self_check(f"{store}/current", 0.001)


# What is removed. ------------------------------------------------------------------------------------


def test_pruning_keeps_current_good_and_used_generations(version: Bundles, store: str) -> None:
    names = [install(version(f"1.{n}"), store, InstallOptions(commit=True, keep=9)).generation for n in range(3)]
    with load(store) as model:
        names += [
            install(version(f"1.{n}"), store, InstallOptions(commit=True, keep=9)).generation for n in range(3, 5)
        ]
        done = prune(store)
        assert set(done.removed) == set(names[:2])
        assert done.in_use == (names[2],)
        assert model(IMAGE).shape == (1, 4)
    assert prune(store).removed == (names[2],)
    assert generations(store) == sorted(names[3:])
    assert prune(store, keep=1).removed == (names[3],)


def test_an_installation_prunes_to_the_requested_number(version: Bundles, store: str) -> None:
    for number in range(5):
        install(version(f"1.{number}"), store, InstallOptions(commit=True, keep=1))
    assert len(generations(store)) == 2


# A running application. ------------------------------------------------------------------------------


@pytest.fixture
def restless() -> Iterator[None]:
    """Make threads switch as often as possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_no_call_is_lost_during_a_reload(version: Bundles, store: str, restless: None) -> None:
    paths = [version("1.0"), version("1.1")]
    install(paths[0], store)
    answers: list[tuple[float, ...]] = []
    problems: list[Exception] = []
    over = threading.Event()

    def call(model: Any) -> None:
        try:
            while not over.is_set():
                answers.append(tuple(model(IMAGE)[0].tolist()))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what the test is about
            problems.append(error)

    expected = set()
    for path in paths:
        with load(path) as single:
            expected.add(tuple(single(IMAGE)[0].tolist()))
    with load(store) as model:
        threads = [threading.Thread(target=call, args=(model,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(SWITCHES):
            install(paths[1 - turn % 2], store, InstallOptions(commit=True, allow_downgrade=True))
            assert model.reload_if_changed()
            assert not model.reload_if_changed()
        over.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert set(answers) == expected


def test_a_call_that_overlaps_a_reload_runs_on_the_new_model(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    with load(store) as model, load(version("1.1")) as new:
        install(version("1.1"), store)

        class Late:
            def __array__(self, *_: Any, **__: Any) -> np.ndarray:
                model.reload_if_changed()  # between the call's beginning and its run
                return IMAGE

        assert np.array_equal(model({"image": Late()}), new(IMAGE))


def test_streams_and_isolated_models_can_reload(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    with load(store, isolate=20.0) as model:
        before = model(IMAGE)
        install(version("1.1"), store)
        assert model.reload_if_changed()
        after = list(model.stream([IMAGE] * 3))
        assert not np.allclose(before, after[0])
        assert all(np.array_equal(after[0], one) for one in after)


def test_a_generation_that_fails_to_load_leaves_the_old_one_running(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    with load(store) as model:
        before = model(IMAGE)
        install(version("1.1", broken=True), store, InstallOptions())
        with pytest.raises(EngineError, match="golden outputs"):
            model.reload_if_changed()
        assert not model.reload_if_changed()  # not tried again
        assert np.array_equal(model(IMAGE), before)
        install(version("1.2"), store, InstallOptions())
        assert model.reload_if_changed()
        assert model.manifest.model_version == "1.2"


def test_a_generation_with_other_outputs_is_not_loaded(version: Bundles, store: str, manifest: Manifest) -> None:
    install(version("1.0"), store)
    with load(store) as model:
        install(version("1.1", outputs=(replace(manifest.outputs[0], name="others"),)), store)
        with pytest.raises(StoreError, match="other inputs or outputs"):
            model.reload_if_changed()


def test_reload_without_a_store_is_refused(bundle_path: Path) -> None:
    with load(bundle_path) as model:
        assert model.generation is None
        with pytest.raises(StoreError, match="not loaded from a store"):
            model.reload_if_changed()


def test_a_closed_model_does_not_reload(version: Bundles, store: str) -> None:
    install(version("1.0"), store)
    model = load(store)
    model.close()
    install(version("1.1"), store)
    with pytest.raises(EngineError, match="closed"):
        model.reload_if_changed()
    assert prune(store, 1).in_use == ()


# The command line. -----------------------------------------------------------------------------------


def test_the_store_commands_work_together(version: Bundles, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run_json(*arguments: object) -> dict[str, Any]:
        assert main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    first = run_json("install", version("1.0"), store)
    assert (first["changed"], first["on_trial"]) == (True, True)
    assert run_json("boot", store)["did"] == "committed"
    second = run_json("install", version("1.1"), store, "--confirm", "heartbeat", "--good", 2, "--tries", 5)
    assert run_json("status", store)["trial"]["most_tries"] == 5
    assert run_json("heartbeat", store)["did"] == "counted"
    assert run_json("commit", store)["did"] == "committed"
    assert run_json("rollback", store, "--why", "misses bicycles")["generation"] == first["generation"]
    given_up = [one for one in run_json("status", store)["generations"] if one["role"] == "given up"]
    assert [(one["name"], one["why"]) for one in given_up] == [(second["generation"], "misses bicycles")]
    assert run_json("prune", store)["removed"] == [second["generation"]]


def test_a_broken_update_rolls_back_at_the_next_start(
    version: Bundles, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", str(version("1.0")), store, "--commit"]) == 0
    assert main(["install", str(version("1.1", broken=True)), store]) == 0
    assert main(["boot", store]) == 0
    assert "rolled back: the self-check failed" in capsys.readouterr().out


def test_errors_have_the_exit_code_of_their_class(
    version: Bundles, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", store]) == StoreError.exit_code
    assert main(["install", str(version("1.1")), store, "--commit"]) == 0
    assert main(["install", str(version("1.0")), store]) == BundleError.exit_code
    assert main(["rollback", store]) == StoreError.exit_code
    assert "install a bundle first" in capsys.readouterr().err
