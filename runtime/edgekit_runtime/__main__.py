"""``python -m edgekit_runtime check|run|info|measure BUNDLE``, and more: the command line there is on a board."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekit_runtime.bundle.reader import open_bundle
from edgekit_runtime.commands import render, store
from edgekit_runtime.commands.arguments import add_where, asked, positive, seconds, threads
from edgekit_runtime.commands.input_files import read_sample, write_outputs
from edgekit_runtime.commands.silence import quiet_engines
from edgekit_runtime.commands.verify import failure, verify
from edgekit_runtime.errors import EdgekitError, InputMismatch
from edgekit_runtime.format.manifest_json import manifest_to_json
from edgekit_runtime.inference.tensor_io import CALL_RAW
from edgekit_runtime.model import load
from edgekit_runtime.placement.place import REASONS, How

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgekit_runtime.model import Model, Outputs
    from edgekit_runtime.placement.failover import Event
    from edgekit_runtime.tensors import Array

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
PIPE_CLOSED = 141  # 128 + SIGPIPE
TOP = 5  # values of an output that are shown
FILES_ONLY_HELP = "signature and digests alone: no engine is needed, nor the key of encrypted artifacts"


@quiet_engines()
def check(args: argparse.Namespace) -> int:
    """Verify digests and golden outputs here; say which variants cannot run and why."""
    wish = asked(args)
    how = How(wish["delegate"], wish["delegate_options"], isolate_s=wish["isolate"] or None)
    with open_bundle(args.bundle, wish["trust"]) as bundle:
        signed_by = bundle.signed_by
        if args.files_only:
            bundle.verify_all()
            _tell(
                args, {"ok": True, "signed_by": signed_by}, [*render.signature_lines(signed_by), "every file is whole"]
            )
            return 0
        verdicts = verify(bundle, args.device, args.require, args.threads, how)
    problem = failure(verdicts)
    told = {"ok": problem is None, "signed_by": signed_by, "variants": [asdict(v) for v in verdicts]}
    _tell(args, told, [*render.signature_lines(signed_by), *render.verdict_lines(verdicts)])
    if problem is not None:
        raise problem
    return 0


@quiet_engines()
def info(args: argparse.Namespace) -> int:
    """Say what the bundle is and which variant would run here."""
    wish = asked(args)
    with open_bundle(args.bundle, wish["trust"]) as bundle:
        manifest = bundle.manifest
    told, lines = (
        {"manifest": json.loads(manifest_to_json(manifest)), "placement": None},
        [*render.manifest_lines(manifest)],
    )
    try:
        with load(**wish, on_event=_show_event) as model:
            placement = model.placement
    except REASONS:  # what it is can be said all the same
        _tell(args, told, lines)
        raise
    _tell(args, {**told, "placement": asdict(placement)}, [*lines, *render.placement_lines(placement)])
    return 0


@quiet_engines()
def run(args: argparse.Namespace) -> int:
    """Run the model once on a file."""
    with load(**asked(args), on_event=_show_event) as model:
        sample, raw = read_sample(args.input, model.inputs)
        result = _call(model, sample, raw or args.raw)
        outputs = result if isinstance(result, dict) else {model.outputs[0].name: result}
        if args.output:
            write_outputs(args.output, outputs)
        found, lines = _results(model, outputs, args.top)
        told = {"variant": model.placement.variant, "events": [asdict(event) for event in model.events], **found}
        lines = [*render.taken_lines(model.placement), *lines]
    _tell(args, told, lines)
    return 0


@quiet_engines()
def measure(args: argparse.Namespace) -> int:
    """Measure how fast it is here, cold and steady, and say how far to trust it."""
    from edgekit_runtime.commands import benchmark as measuring

    found = measuring.measure(measuring.Wish(**asked(args)), args.seconds, _show_event)
    _tell(args, asdict(found), measuring.lines(found))
    return 0


@quiet_engines()
def doctor(args: argparse.Namespace) -> int:
    """Say what this machine is, which engines and accelerators it has, and what to install."""
    from edgekit_runtime.commands import doctor as doctors

    found = doctors.diagnose()
    _tell(args, asdict(found), doctors.lines(found))
    return 0


def _keep_store(args: argparse.Namespace) -> int:
    """Run one of the store's commands."""
    _tell(args, *args.store_verb(args))
    return 0


def _show_event(event: Event) -> None:
    print(render.event_line(event), file=sys.stderr, flush=True)


def _call(model: Model, sample: Any, raw: bool) -> Outputs:
    try:
        return model(sample, raw=raw)
    except InputMismatch as error:
        raise InputMismatch(str(error).replace(CALL_RAW, "say --raw")) from error


def _results(model: Model, outputs: dict[str, Array], top: int | None) -> tuple[dict[str, Any], list[str]]:
    """What a call gave, for programs and for people; people get the answers instead of what they are made of."""
    records = {name: render.output_record(out, _labels(model, name), top or TOP) for name, out in outputs.items()}
    means = model.manifest.postprocessing
    explained = (means.scores, means.boxes) if means else ()
    others = [line for name in records if name not in explained for line in render.output_lines(name, records[name])]
    if means is None:
        return {"outputs": records}, others
    answers = model.postprocess(outputs)[:top]
    return {"answers": [asdict(each) for each in answers], "outputs": records}, [*render.answer_lines(answers), *others]


def _labels(model: Model, output: str) -> tuple[str, ...]:
    return model.labels.get(output, ())


def _tell(args: argparse.Namespace, record: Mapping[str, object], lines: Iterable[str]) -> None:
    print(json.dumps(_strict(record), indent=2) if args.json else "\n".join(lines))


def _strict(record: Mapping[str, object]) -> Any:
    """The record in what JSON has: numbers that are none become the words ``"NaN"`` and ``"Infinity"``."""
    return json.loads(json.dumps(record), parse_constant=str)


EXAMPLES = {
    "check": "check model.edgekit --require edgetpu",
    "run": "run model.edgekit cat.jpg --delegate edgetpu --delegate-options usb",
    "info": "info model.edgekit --delegate /opt/npu/libnpu_delegate.so --delegate-options cores=2,fast=1",
    "measure": "measure model.edgekit --threads auto --isolate 2",
    "doctor": "doctor --json",
}
VERBS = (check, run, info, measure, doctor)
STORE_VERBS = store.VERBS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgekit_runtime", description="Run edgekit bundles.")
    names = "|".join(verb.__name__ for verb in (*VERBS, *STORE_VERBS))
    verbs = parser.add_subparsers(dest="verb", required=True, metavar=names)
    for verb in VERBS:
        said = (verb.__doc__ or "").strip()
        example = f"example: python -m edgekit_runtime {EXAMPLES[verb.__name__]}"
        sub = verbs.add_parser(verb.__name__, help=said, description=said, epilog=example)
        sub.set_defaults(function=verb)
        if verb is not doctor:
            add_where(sub, threads if verb is not check else positive)
        if verb is check:
            sub.add_argument("--files-only", action="store_true", help=FILES_ONLY_HELP)
        if verb is run:
            sub.add_argument("input", metavar="INPUT", help=".npy, .npz, or an image file (needs Pillow)")
            sub.add_argument("--raw", action="store_true", help="preprocess arrays too; images always are")
            sub.add_argument(
                "--top", type=positive, metavar="N", help=f"at most so many answers, labels or values [{TOP}]"
            )
            sub.add_argument("--output", metavar="FILE", help="write the outputs to a .npy or .npz")
        if verb is measure:
            sub.add_argument("--seconds", type=seconds, default=3.0, metavar="N", help="about so long a scenario")
        sub.add_argument("--json", action="store_true", help="print JSON")
    for store_verb, example in STORE_VERBS.items():
        said = (store_verb.__doc__ or "").strip()
        sub = verbs.add_parser(
            store_verb.__name__, help=said, description=said, epilog=f"example: python -m edgekit_runtime {example}"
        )
        sub.set_defaults(function=_keep_store, store_verb=store_verb)
        store.add_options(store_verb, sub)
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, or the exit code of the error's family: edgekit_runtime.errors has the tree.
    """
    args = _parser().parse_args(argv)
    try:
        code: int = args.function(args)
        sys.stdout.flush()
        return code
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
