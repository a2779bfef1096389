"""The commands of a store: ``install|status|boot|heartbeat|commit|rollback|prune``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.commands.arguments import KEY_HELP, positive, seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from edgekit_runtime.store.install import InstallResult, Progress
    from edgekit_runtime.store.status import Generation, Status
    from edgekit_runtime.store.trial import StoreChange

Output = tuple[dict[str, Any], list[str]]  # the record for --json, and the lines of text
SELF_CHECK_S = 300.0


def install(args: argparse.Namespace) -> Output:
    """Install a bundle, or a delta, into a store, and make it current, on trial."""
    from edgekit_runtime.store.install import InstallOptions, install_from

    options = InstallOptions(**{name: getattr(args, name) for name in InstallOptions.__match_args__})
    installed, note = install_from(args.source, args.full, args.store, options, _progress())
    return {**asdict(installed), "note": note}, [*([f"note: {note}"] if note else []), *_installed_lines(installed)]


def status(args: argparse.Namespace) -> Output:
    """Print the generations of a store, the current one, and the state of its trial."""
    from edgekit_runtime.store.status import status as read_status

    found = read_status(args.store)
    return asdict(found), list(_status_lines(found))


def boot(args: argparse.Namespace) -> Output:
    """Count a start, self-check a generation on trial, and keep it or roll back. Run it before the application."""
    from edgekit_runtime.store import trial as store_trial
    from edgekit_runtime.store.self_check import self_check

    return _change_output(store_trial.boot(args.store, lambda folder: self_check(folder, args.timeout)))


def heartbeat(args: argparse.Namespace) -> Output:
    """Confirm to a store that the application works with the generation on trial."""
    from edgekit_runtime.store import trial as store_trial

    return _change_output(store_trial.heartbeat(args.store, args.generation))


def commit(args: argparse.Namespace) -> Output:
    """Keep the generation on trial."""
    from edgekit_runtime.store import trial as store_trial

    return _change_output(store_trial.commit(args.store))


def rollback(args: argparse.Namespace) -> Output:
    """Roll back to the last good generation."""
    from edgekit_runtime.store import trial as store_trial

    return _change_output(store_trial.rollback(args.store, args.why))


def prune(args: argparse.Namespace) -> Output:
    """Remove old generations that are not open, and the remains of a power cut."""
    from edgekit_runtime.store.prune import prune as prune_store

    pruned = prune_store(args.store, args.keep)
    lines = [f"removed {', '.join(pruned.removed) or 'nothing'}, wrote {pruned.written_bytes:,} bytes"]
    return asdict(pruned), lines + ([f"in use, so kept: {', '.join(pruned.in_use)}"] if pruned.in_use else [])


COMMANDS: dict[Callable[[argparse.Namespace], Output], str] = {
    install: "install model-1.3.edgekit /var/lib/edgekit/camera --confirm heartbeat",
    status: "status /var/lib/edgekit/camera --json",
    boot: "boot /var/lib/edgekit/camera",
    heartbeat: "heartbeat /var/lib/edgekit/camera",
    commit: "commit /var/lib/edgekit/camera",
    rollback: "rollback /var/lib/edgekit/camera --why 'misses bicycles'",
    prune: "prune /var/lib/edgekit/camera --keep 1",
}


def add_options(command: Callable[[argparse.Namespace], Output], parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command."""
    if command is install:
        parser.add_argument("source", metavar="BUNDLE", help="a .edgekit file or folder, or a .delta")
    parser.add_argument("store", metavar="STORE", help="the store's folder; install creates it")
    if command is install:
        _add_install_options(parser)
    if command is boot:
        parser.add_argument(
            "--timeout",
            type=seconds,
            default=SELF_CHECK_S,
            metavar="S",
            help=f"seconds for the self-check [{SELF_CHECK_S:g}]",
        )
    if command is heartbeat:
        parser.add_argument(
            "--generation", metavar="NAME", help="the generation that the application has open [the current one]"
        )
    if command is rollback:
        parser.add_argument(
            "--why", default="rolled back by hand", metavar="TEXT", help="the reason, which status prints"
        )
    if command is prune:
        parser.add_argument("--keep", type=positive, default=2, metavar="N", help="good generations to keep [2]")


def _add_install_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--full", metavar="BUNDLE", help="install this bundle if the delta does not fit the current generation"
    )
    parser.add_argument("--key", action="append", dest="trust", metavar="PUB.pem", help=KEY_HELP)
    parser.add_argument("--device", metavar="NAME", help="this board's device profile; a bundle without it is refused")
    parser.add_argument(
        "--confirm",
        choices=("self-check", "heartbeat"),
        default="self-check",
        help="how a trial succeeds: by self-checks of boot or heartbeats, or by heartbeats only [self-check]",
    )
    parser.add_argument(
        "--good", dest="wanted", type=positive, default=1, metavar="N", help="number of these that a trial needs [1]"
    )
    parser.add_argument(
        "--tries", dest="most_tries", type=positive, default=3, metavar="N", help="starts after which a trial fails [3]"
    )
    parser.add_argument("--commit", action="store_true", help="keep it without a trial")
    parser.add_argument("--keep", type=positive, default=2, metavar="N", help="good generations to keep [2]")
    parser.add_argument("--allow-downgrade", action="store_true", help="accept an older version")
    parser.add_argument("--allow-other-model", action="store_true", help="accept a bundle of another model")
    parser.add_argument(
        "--any-board", action="store_true", help="accept a bundle for another machine, as when building an image"
    )
    parser.add_argument("--again", action="store_true", help="accept a bundle that was rolled back before")


def _progress() -> Progress | None:
    """Return a function that shows the progress on stderr, if that is a terminal."""
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


def _change_output(change: StoreChange) -> Output:
    line = f"{change.did}: {change.why}; {change.generation} is current, wrote {change.written_bytes:,} bytes"
    return asdict(change), [line]


def _installed_lines(installed: InstallResult) -> Iterator[str]:
    name = f"{installed.model} {installed.version} ({installed.generation})"
    if not installed.changed:
        yield f"{name} is current already: nothing was written"
        return
    yield f"{name} is current{', on trial' if installed.on_trial else ''}"
    yield f"wrote {installed.written_bytes:,} bytes for a bundle of {installed.bundle_bytes:,}"
    if installed.pruned:
        yield f"removed {', '.join(installed.pruned)}"


def _status_lines(found: Status) -> Iterator[str]:
    yield f"{found.store}: {found.state}, {found.free_bytes:,} bytes free"
    if found.trial is not None:
        trial = found.trial
        yield (
            f"  {trial.good} of {trial.wanted} successful checks ({trial.confirm}), "
            f"{trial.tries} of {trial.most_tries} starts; else back to {trial.previous or 'nothing'}"
        )
    yield from map(_generation_line, found.generations)


def _generation_line(generation: Generation) -> str:
    model = f"{generation.model} {generation.version}" if generation.model is not None else "cannot be opened"
    line = f"  {generation.name}  {generation.role:<10}  {model}  {generation.size_bytes:,} bytes"
    return f"{line}  {generation.why}" if generation.why else line
