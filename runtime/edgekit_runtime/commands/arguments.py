"""The options that select where and how a bundle runs, the same for all commands of both command lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.errors import PlanError
from edgekit_runtime.placement.load_options import ISOLATE_S, MAX_ISOLATE_S, LoadOptions

if TYPE_CHECKING:
    from edgekit_runtime.placement.load_options import Event

KEY_HELP = (
    "accept the bundle only if the owner of this public key signed it; repeatable, one signature is enough "
    "[$EDGEKIT_TRUST, else /etc/edgekit/trust.d if it exists]"
)


def add_load_options(parser: argparse.ArgumentParser, thread_count: Callable[[str], Any]) -> None:
    """Add BUNDLE and the options of ``load``; ``thread_count`` parses --threads: ``threads`` or ``positive``."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .edgekit file or folder")
    parser.add_argument("--key", action="append", dest="trust", metavar="PUB.pem", help=KEY_HELP)
    parser.add_argument("--device", default="auto", metavar="NAME", help="prefer the variants of this device profile")
    parser.add_argument(
        "--require", metavar="NAME", help="run only this engine, device, scheme or variant; no fallback to another"
    )
    parser.add_argument(
        "--delegate", metavar="NAME|PATH", help="try this delegate first: a known name, or the path of its library"
    )
    parser.add_argument("--delegate-options", metavar="K=V,...", help="options of the delegate, such as device=usb")
    auto = thread_count is threads
    threads_help = "threads of the engine" + ("; auto: measure the fastest number once" if auto else "")
    parser.add_argument("--threads", type=thread_count, metavar="N|auto" if auto else "N", help=threads_help)
    isolate_help = (
        f"run in a child process, which is ended when a run takes longer [{ISOLATE_S:g} s]; write it after BUNDLE"
    )
    parser.add_argument("--isolate", nargs="?", type=seconds, const=ISOLATE_S, metavar="SECONDS", help=isolate_help)


def load_options(args: argparse.Namespace, on_event: Callable[[Event], Any] | None = None) -> LoadOptions:
    """Return the options of ``load`` from parsed arguments.

    Raises:
        PlanError: options of a delegate without a delegate, or not in the form that it takes.
    """
    if args.delegate_options is not None:
        _check_delegate_options(args.delegate, args.delegate_options)
    return LoadOptions(
        device=args.device,
        require=args.require,
        threads=args.threads,
        delegate=args.delegate,
        delegate_options=args.delegate_options,
        isolate=args.isolate or False,
        on_event=on_event,
        trust=list(args.trust) if args.trust else None,
    )


def _check_delegate_options(delegate: str | None, options: str) -> None:
    if delegate is None:
        raise PlanError("--delegate-options needs a --delegate: name one, as in --delegate edgetpu")
    from edgekit_runtime.engines.delegates import parse_options

    try:
        parse_options(delegate, options)
    except ValueError as error:
        raise PlanError(f"--delegate-options: {error}") from error


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def threads(text: str) -> int | str:
    """Parse a number of threads, or ``auto``."""
    return text if text == "auto" else positive(text)


def seconds(text: str) -> float:
    """Parse a time above 0, of at most a day."""
    value = float(text)
    if not 0 < value <= MAX_ISOLATE_S:
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 and of at most {MAX_ISOLATE_S:g} s")
    return value
