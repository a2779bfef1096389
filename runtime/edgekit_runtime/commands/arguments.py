"""The options that say where and how a bundle is to run: the same words for every verb of both command lines."""

from __future__ import annotations

import argparse
from typing import Any, Callable

from edgekit_runtime.errors import PlanError
from edgekit_runtime.model import ISOLATE_S, MOST_S

KEY_HELP = (
    "refuse it unless this public key's owner signed it; repeatable, one is enough "
    "[$EDGEKIT_TRUST, else /etc/edgekit/trust.d if it is there]"
)


def add_where(parser: argparse.ArgumentParser, kind: Callable[[str], Any]) -> None:
    """Add BUNDLE and those options; ``kind`` reads --threads and is ``threads`` or ``positive``."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .edgekit file or folder")
    parser.add_argument("--key", action="append", dest="trust", metavar="PUB.pem", help=KEY_HELP)
    parser.add_argument("--device", default="auto", metavar="NAME", help="prefer the variants of this device profile")
    parser.add_argument("--require", metavar="WHAT", help="an engine, device, scheme or variant; no other will do")
    parser.add_argument("--delegate", metavar="NAME|PATH", help="try this delegate first: a known name, or a library")
    parser.add_argument("--delegate-options", metavar="K=V,...", help="what the delegate is told, such as device=usb")
    measured = kind is threads
    number = "threads of the engine" + ("; auto: as many as are fastest here, measured once" if measured else "")
    parser.add_argument("--threads", type=kind, metavar="N|auto" if measured else "N", help=number)
    isolated = (
        f"run in a child process, ended when a run takes longer ({ISOLATE_S:g} s unless said); goes behind BUNDLE"
    )
    parser.add_argument("--isolate", nargs="?", type=seconds, const=ISOLATE_S, metavar="SECONDS", help=isolated)


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What ``load`` is asked for, by the names of its parameters.

    Raises:
        PlanError: the options of a delegate without one, or not of the form it takes.
    """
    names = ("device", "require", "threads", "delegate", "delegate_options")
    wish = {"path": args.bundle, "isolate": args.isolate or False, **{name: getattr(args, name) for name in names}}
    wish["trust"] = list(args.trust) if args.trust else None
    if wish["delegate_options"] is not None:
        if wish["delegate"] is None:
            raise PlanError("--delegate-options is for a --delegate: say which, as in --delegate edgetpu")
        from edgekit_runtime.engines.delegates import options_given

        try:
            options_given(wish["delegate"], wish["delegate_options"])
        except ValueError as error:
            raise PlanError(f"--delegate-options: {error}") from error
    return wish


def positive(text: str) -> int:
    """Read a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def threads(text: str) -> int | str:
    """Read a number of threads, or ``auto``."""
    return text if text == "auto" else positive(text)


def seconds(text: str) -> float:
    """Read a time above 0, of at most a day."""
    value = float(text)
    if not 0 < value <= MOST_S:
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 and of at most {MOST_S:g} s")
    return value
