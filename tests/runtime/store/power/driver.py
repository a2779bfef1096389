"""Cut the power at every change that a store command makes to the disk. Runs with cut.c preloaded.

    python driver.py BUNDLES SCENARIO WAY...

BUNDLES has a.edgekit, b.edgekit, c.edgekit and ab.delta. Prints as JSON how many changes there are of each kind, and
for each way of cutting how many states of the disk were looked at, and what was wrong with which of them.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from disk import Change, Disk, read_log, tree_of, write_tree

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import EdgekitError, StoreError
from edgekit_runtime.store import state as store_state
from edgekit_runtime.store import trial
from edgekit_runtime.store.generations import current, generation_name, generations
from edgekit_runtime.store.install import InstallOptions, install_from
from edgekit_runtime.store.prune import prune

SHIM = ctypes.CDLL(None)
MODES = {"kill": 0, "half": 1, "full": 2, "fail": 3}
AFTER = ("mkdir", "rename")
AT = {"half": ("write",), "full": ("create", "write", "mkdir", "symlink", "rename")}  # the others: at each change
BUNDLES, SCENARIO = Path(sys.argv[1]), sys.argv[2]
KILLED, REFUSED = "killed", "refused"

Step = Callable[[str], object]


def install(name: str, **options: object) -> Step:
    return lambda store: install_from(BUNDLES / name, None, store, InstallOptions(any_board=True, **options))


A, B, C = (install(f"{name}.edgekit", commit=True) for name in "abc")
B_ON_TRIAL = install("b.edgekit", wanted=2)


def boot(problem: str) -> Step:
    return lambda store: trial.boot(store, lambda _: problem)


def leftovers(store: str) -> None:
    """Create the leftovers of a killed installer."""
    shutil.copytree(Path(store, "current"), Path(store, "generations", ".new"))
    Path(store, "state.json.new").write_bytes(b"{")
    Path(store, "current.new").symlink_to("generations/0000000000000000")


def damage(store: str) -> None:
    """Flip bits in a generation that is not current."""
    spoil(store, next(name for name in generations(store) if name != current(store)))


def damage_current(store: str) -> None:
    """Flip bits in the current generation."""
    spoil(store, current(store))


def spoil(store: str, name: str) -> None:
    weights = Path(store, "generations", name, "variants", "v", "weights.npy")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")


@dataclass(frozen=True)
class Scenario:
    before: tuple[Step, ...]
    step: Step
    may_be: str  # which bundles may be current after a cut; "-" is none yet
    tried: str = ""  # which of them must be on trial then
    back: bool = True  # what was good before is whole
    sound: bool = True  # what is current before is whole; else it only has to be mended by what comes next


SCENARIOS = {
    "first install": Scenario((), install("a.edgekit"), "-a", "a"),
    "install": Scenario((A,), install("b.edgekit"), "ab", "b"),
    "install without a trial": Scenario((A,), B, "ab"),
    "install without a trial over one": Scenario((A, B_ON_TRIAL), C, "bc", "b"),
    "install over a trial": Scenario((A, B_ON_TRIAL), install("c.edgekit"), "bc", "bc"),
    "install after a cut, pruning": Scenario((A, B, leftovers), install("c.edgekit", keep=1), "bc", "c"),
    "install what is there": Scenario((A, B), install("a.edgekit", allow_downgrade=True), "ab", "a"),
    "install what is there and damaged": Scenario(
        (A, B, damage), install("a.edgekit", allow_downgrade=True), "ab", "a", back=False
    ),
    "install what is current and damaged": Scenario((A, damage_current), install("a.edgekit"), "a", sound=False),
    "delta": Scenario((A,), install("ab.delta"), "ab", "b"),
    "commit": Scenario((A, B_ON_TRIAL), trial.commit, "b"),
    "heartbeat": Scenario((A, B_ON_TRIAL), trial.heartbeat, "b"),
    "rollback of a trial": Scenario((A, B_ON_TRIAL), trial.rollback, "ab", "b"),
    "rollback of what was good": Scenario((A, B), trial.rollback, "ab"),
    "boot": Scenario((A, B_ON_TRIAL), boot(""), "b"),
    "boot that fails": Scenario((A, B_ON_TRIAL), boot("wrong numbers"), "ab", "b"),
    "boot once too often": Scenario((A, install("b.edgekit", wanted=2, most_tries=1), boot("")), boot(""), "ab", "b"),
    "prune": Scenario((A, B, C, leftovers), lambda store: prune(store, 1), "c"),
}


@functools.cache
def names() -> dict[str, str]:
    """Return the generation of each bundle."""
    found = {}
    for letter in "abc":
        with open_bundle(BUNDLES / f"{letter}.edgekit") as bundle:
            found[letter] = generation_name(bundle.unlisted())
    return found


def wrong_with(store: str, scenario: Scenario) -> str:
    """Return the problem of a store after a power cut; empty if there is none.

    Empty when an allowed generation is current, is whole and on trial if it has to be, and there is a whole one to go
    back to where one was remembered.
    """
    known, now = names(), current(store)
    if now not in {known.get(letter) for letter in scenario.may_be}:
        return f"{now} is current"
    state = store_state.read_state(store)
    on_trial = store_state.current_trial(state, now) is not None
    if now in {known[letter] for letter in scenario.tried} and not on_trial:
        return f"{now} is current and not on trial"
    if not scenario.sound:
        return ""
    try:
        for name in [*([now] if now else []), *store_state.rollback_targets(state, now)[: scenario.back]]:
            with open_bundle(Path(store, "generations", name)) as bundle:
                bundle.verify_all()
    except EdgekitError as error:
        return str(error)
    return ""


def prepare_store(root: Path, scenario: Scenario) -> str:
    """Create a store in the state before the step, in a new folder."""
    store = str(root / "store")
    os.mkdir(root)
    for step in scenario.before:
        step(store)
    return store


def run_cut(step: Step, store: str, cut: int, mode: str, log: Path | None = None) -> str:
    """Run a step in a child process and stop it at a change of the disk. Return KILLED, REFUSED or "" (not stopped)."""
    child = os.fork()
    if child == 0:
        if log is not None:
            SHIM.cut_log(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        SHIM.cut_arm(os.path.dirname(store).encode(), ctypes.c_long(cut), MODES[mode])
        try:
            step(store)
        except StoreError:
            os._exit(3)
        except BaseException:  # noqa: BLE001  # a forked child must not go on as its parent
            import traceback

            traceback.print_exc()
            os._exit(4)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return KILLED
    code = os.WEXITSTATUS(status)
    if code == 4:
        raise AssertionError(f"{SCENARIO}, {mode} at {cut}: another error than a StoreError")
    return REFUSED if code else ""


def trace_step(scenario: Scenario, root: Path) -> tuple[Disk, list[Change]]:
    """Return all changes of a complete step and the disk before it, after checking that the log is complete."""
    store = prepare_store(root, scenario)
    disk, log = Disk(root), root.with_suffix(".log")
    assert run_cut(scenario.step, store, 0, "kill", log) == ""
    return disk, read_log(log.read_bytes())


def cut_each_change(scenario: Scenario, root: Path, mode: str) -> Iterator[str]:
    """Stop the step at each change in turn; yield the problems afterwards."""
    _, changes = trace_step(scenario, root / "traced")
    prepare_store(root / "before", scenario)
    beyond = Change("none", "", "", b"")  # there, nothing is stopped any more: the log has all that is counted
    for cut, change in enumerate([*changes, beyond], start=1):
        if change.kind not in AT.get(mode, change.kind):
            continue
        place = root / str(cut)
        shutil.copytree(root / "before", place, symlinks=True)
        store = str(place / "store")
        ended = run_cut(scenario.step, store, cut, mode)
        wanted = "" if change is beyond else KILLED if mode in ("kill", "half") else REFUSED
        problem = "" if ended == wanted else f"it was {ended or 'not stopped'}"
        problem = problem or wrong_with(store, scenario) or after(store, scenario)
        yield problem and f"at change {cut} ({change.kind} {change.path}): {problem}"
        shutil.rmtree(place)


def after(store: str, scenario: Scenario) -> str:
    """Return the problem after another installation and a rollback; empty if there is none."""
    try:
        install("c.edgekit", again=True, allow_downgrade=True, keep=1)(store)
    except EdgekitError as error:
        return f"nothing can be installed any more: {error}"
    prune(store)  # nothing was installed, nor cleared away, where that was current
    left = [path.name for path in Path(store, "generations").iterdir() if path.name.startswith(".")]
    left += [path.name for path in Path(store).iterdir() if path.name.endswith(".new")]
    return f"leftovers: {left}" if left else wrong_with(store, Scenario((), prune, "c", back=scenario.sound))


def lose_unflushed(scenario: Scenario, root: Path, flushes: bool = True) -> Iterator[str]:
    """Cut the power before each change of the step, and lose all unflushed changes."""
    disk, changes = trace_step(scenario, root / "traced")
    seen: set[str] = set()
    for place, change in enumerate([*changes, Change("end", "", "", b"")]):
        for what, tree in disk.after_a_cut():
            key = repr(sorted(tree.items()))
            if key in seen:
                continue
            seen.add(key)
            again = root / f"{len(seen)}"
            write_tree(tree, again)
            problem = wrong_with(str(again / "store"), scenario)
            yield problem and f"before change {place} ({change.kind} {change.path}), {what}: {problem}"
            shutil.rmtree(again)
        if change.kind != "end" and (flushes or change.kind != "fsync"):
            disk.apply(change)
    if flushes:
        yield "" if tree_of(root / "traced") == disk.as_it_is() else "the log misses something that was done"
        yield "" if disk.is_flushed() else "what was done is not on the disk when the command ends"


def cut_after_killed_step(scenario: Scenario, root: Path, step: Step) -> Iterator[str]:
    """Kill a step after each unflushed rename; run another step, and cut the power during it."""
    _, changes = trace_step(scenario, root / "traced")
    for cut in (place + 2 for place, change in enumerate(changes) if change.kind in AFTER):
        killed = root / f"killed at {cut}"
        store = prepare_store(killed, scenario)
        disk, log = Disk(killed), killed.with_suffix(".log")
        assert run_cut(scenario.step, store, cut, "kill", log) == KILLED
        for change in read_log(log.read_bytes()):
            disk.apply(change)
        log.unlink()
        assert run_cut(step, store, 0, "kill", log) == ""
        for place, change in enumerate([*read_log(log.read_bytes()), Change("failed", str(killed / "end"), "", b"")]):
            for number, (what, tree) in enumerate(disk.after_a_cut()):
                again = root / f"{cut} {place} {number}"
                write_tree(tree, again)
                problem = wrong_with(str(again / "store"), scenario)
                yield problem and f"killed at {cut}, then before change {place} ({change.kind}), {what}: {problem}"
                shutil.rmtree(again)
            disk.apply(change)
        yield "" if disk.is_flushed() else f"killed at {cut}: what was done is not on the disk when the next one ends"


def prune_after_killed_step(scenario: Scenario, root: Path) -> Iterator[str]:
    """Prune after a killed step."""
    yield from cut_after_killed_step(scenario, root, lambda store: prune(store, 1))


def retry_after_killed_step(scenario: Scenario, root: Path) -> Iterator[str]:
    """Repeat a step after it was killed."""
    yield from cut_after_killed_step(scenario, root, scenario.step)


WAYS: dict[str, Callable[[Scenario, Path], Iterator[str]]] = {
    **{mode: functools.partial(cut_each_change, mode=mode) for mode in MODES},
    "lost": lose_unflushed,
    "pruned": prune_after_killed_step,
    "retried": retry_after_killed_step,
    "careless": functools.partial(lose_unflushed, flushes=False),
}


def main() -> None:
    scenario, results = SCENARIOS[SCENARIO], {}
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        root = Path(folder)
        _, changes = trace_step(scenario, root / "counted")
        for way in sys.argv[3:]:
            (root / way).mkdir()
            problems = list(WAYS[way](scenario, root / way))
            results[way] = {"states": len(problems), "wrong": [problem for problem in problems if problem]}
    print(json.dumps({"changes": Counter(change.kind for change in changes), "ways": results}))


if __name__ == "__main__":
    main()
