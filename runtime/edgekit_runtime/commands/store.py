"""``install|status|boot|heartbeat|commit|rollback|prune``: the commands of a store on a board."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.commands.arguments import KEY_HELP, positive, seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from edgekit_runtime.store.install import Installed, Progress
    from edgekit_runtime.store.status import Generation, Status
    from edgekit_runtime.store.trial import StoreChange

Told = tuple[dict[str, Any], list[str]]  # for programs, for people
CHECK_S = 300.0


def install(args: argparse.Namespace) -> Told:
    """Put a bundle, or the delta to it, into a store and make it current, on trial."""
    from edgekit_runtime.store.install import InstallOptions, install_from

    terms = InstallOptions(**{name: getattr(args, name) for name in InstallOptions.__match_args__})
    done, note = install_from(args.source, args.full, args.store, terms, _watch())
    return {**asdict(done), "note": note}, [*([f"note: {note}"] if note else []), *_installed_lines(done)]


def status(args: argparse.Namespace) -> Told:
    """Say what is in a store, what is current, and how its trial stands."""
    from edgekit_runtime.store.status import status as look

    found = look(args.store)
    return asdict(found), list(_status_lines(found))


def boot(args: argparse.Namespace) -> Told:
    """Count a start and self-check what is on trial: commit it, or go back. Run it before the application."""
    from edgekit_runtime.store import trial as store_trial
    from edgekit_runtime.store.self_check import self_check

    return _turn(store_trial.boot(args.store, lambda folder: self_check(folder, args.timeout)))


def heartbeat(args: argparse.Namespace) -> Told:
    """Tell a store that the application works with what is on trial."""
    from edgekit_runtime.store import trial as store_trial

    return _turn(store_trial.heartbeat(args.store, args.generation))


def commit(args: argparse.Namespace) -> Told:
    """Keep what is on trial."""
    from edgekit_runtime.store import trial as store_trial

    return _turn(store_trial.commit(args.store))


def rollback(args: argparse.Namespace) -> Told:
    """Give up the current generation for the last good one."""
    from edgekit_runtime.store import trial as store_trial

    return _turn(store_trial.rollback(args.store, args.why))


def prune(args: argparse.Namespace) -> Told:
    """Remove old generations that nobody has open, and what a power cut left."""
    from edgekit_runtime.store.prune import prune as prune_store

    done = prune_store(args.store, args.keep)
    told = [f"removed {', '.join(done.removed) or 'nothing'}, wrote {done.written_bytes:,} bytes"]
    return asdict(done), told + ([f"in use, and kept: {', '.join(done.in_use)}"] if done.in_use else [])


COMMANDS: dict[Callable[[argparse.Namespace], Told], str] = {
    install: "install model-1.3.edgekit /var/lib/edgekit/camera --confirm heartbeat",
    status: "status /var/lib/edgekit/camera --json",
    boot: "boot /var/lib/edgekit/camera",
    heartbeat: "heartbeat /var/lib/edgekit/camera",
    commit: "commit /var/lib/edgekit/camera",
    rollback: "rollback /var/lib/edgekit/camera --why 'misses bicycles'",
    prune: "prune /var/lib/edgekit/camera --keep 1",
}


def add_options(command: Callable[[argparse.Namespace], Told], parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command."""
    if command is install:
        parser.add_argument("source", metavar="BUNDLE", help="a .edgekit file or folder, or a .delta")
    parser.add_argument("store", metavar="STORE", help="the store's folder; install makes it")
    if command is install:
        _add_terms(parser)
    if command is boot:
        parser.add_argument(
            "--timeout", type=seconds, default=CHECK_S, metavar="S", help=f"of the self-check [{CHECK_S:g}]"
        )
    if command is heartbeat:
        parser.add_argument("--generation", metavar="NAME", help="that the application has open [the current one]")
    if command is rollback:
        parser.add_argument("--why", default="rolled back by hand", metavar="TEXT", help="is remembered")
    if command is prune:
        parser.add_argument("--keep", type=positive, default=2, metavar="N", help="good generations to keep [2]")


def _add_terms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", metavar="BUNDLE", help="to install where the delta does not fit what is there")
    parser.add_argument("--key", action="append", dest="trust", metavar="PUB.pem", help=KEY_HELP)
    parser.add_argument("--device", metavar="NAME", help="the device profile this board is; no other bundle is taken")
    parser.add_argument(
        "--confirm",
        choices=("self-check", "heartbeat"),
        default="self-check",
        help="what a trial needs: self-checks by boot (heartbeats will do, too), or heartbeats alone [self-check]",
    )
    parser.add_argument("--good", dest="wanted", type=positive, default=1, metavar="N", help="how many of them [1]")
    parser.add_argument(
        "--tries", dest="most_tries", type=positive, default=3, metavar="N", help="starts it may take [3]"
    )
    parser.add_argument("--commit", action="store_true", help="without a trial")
    parser.add_argument("--keep", type=positive, default=2, metavar="N", help="good generations to keep meanwhile [2]")
    parser.add_argument("--allow-downgrade", action="store_true", help="take an older version, too")
    parser.add_argument("--allow-other-model", action="store_true", help="take a bundle of another name, too")
    parser.add_argument("--any-board", action="store_true", help="for another machine, as when an image is built")
    parser.add_argument("--again", action="store_true", help="take what was given up before, too")


def _watch() -> Progress | None:
    """Progress on stderr while that is a terminal."""
    if not sys.stderr.isatty():
        return None

    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent != shown:
            shown = percent
            print(f"\rwrote {percent:3d} %", end="\n" if percent == 100 else "", file=sys.stderr, flush=True)

    return show


def _turn(turn: StoreChange) -> Told:
    line = f"{turn.did}: {turn.why}; {turn.generation} is current, wrote {turn.written_bytes:,} bytes"
    return asdict(turn), [line]


def _installed_lines(done: Installed) -> Iterator[str]:
    if not done.changed:
        yield f"{done.model} {done.version} ({done.generation}) is current already: nothing was written"
        return
    yield f"{done.model} {done.version} ({done.generation}) is current{', on trial' if done.on_trial else ''}"
    yield f"wrote {done.written_bytes:,} bytes for a bundle of {done.bundle_bytes:,}"
    if done.pruned:
        yield f"removed {', '.join(done.pruned)}"


def _status_lines(found: Status) -> Iterator[str]:
    yield f"{found.store}: {found.state}, {found.free_bytes:,} bytes free"
    if found.trial is not None:
        trial = found.trial
        yield (
            f"  {trial.good} of {trial.wanted} successful checks ({trial.confirm}), "
            f"{trial.tries} of {trial.most_tries} starts; else back to {trial.previous or 'nothing'}"
        )
    yield from map(_generation_line, found.generations)


def _generation_line(one: Generation) -> str:
    what = f"{one.model} {one.version}" if one.model is not None else "cannot be opened"
    return f"  {one.name}  {one.role:<10}  {what}  {one.size_bytes:,} bytes" + (f"  {one.why}" if one.why else "")
