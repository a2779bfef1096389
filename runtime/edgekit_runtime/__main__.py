"""``python -m edgekit_runtime verify|run|inspect|measure BUNDLE``, and more: the command line on a board."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.commands import render, store
from edgekit_runtime.commands.arguments import add_load_options, load_options, positive, seconds, threads
from edgekit_runtime.commands.input_files import read_sample, write_outputs
from edgekit_runtime.commands.silence import quiet_engines
from edgekit_runtime.commands.verify import failure, verify_bundle
from edgekit_runtime.errors import EdgekitError, InputMismatch
from edgekit_runtime.format.manifest_json import manifest_to_json
from edgekit_runtime.inference.tensor_io import CALL_RAW
from edgekit_runtime.model import load_model
from edgekit_runtime.placement.place import VARIANT_ERRORS
from edgekit_runtime.store.open_bundle import open_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgekit_runtime.model import Model, Outputs
    from edgekit_runtime.placement.load_options import Event
    from edgekit_runtime.tensors import Array

INTERRUPTED = 130  # 128 + SIGINT, as in shells
PIPE_CLOSED = 141  # 128 + SIGPIPE
TOP = 5  # values of an output that are printed
FILES_ONLY_HELP = "check the signature and digests only: needs no engine, nor the key of encrypted artifacts"


@quiet_engines()
def verify(args: argparse.Namespace) -> int:
    """Verify the digests and golden outputs on this machine, and print which variants cannot run and why."""
    options = load_options(args)
    with open_bundle(args.bundle, options.trust) as bundle:
        signed_by = bundle.signed_by
        signature_lines = [*render.signature_lines(signed_by)]
        if args.files_only:
            bundle.verify_all()
            _print(args, {"ok": True, "signed_by": signed_by}, [*signature_lines, "every file is whole"])
            return 0
        results = verify_bundle(bundle, options)
    problem = failure(results)
    record = {"ok": problem is None, "signed_by": signed_by, "variants": [asdict(result) for result in results]}
    _print(args, record, [*signature_lines, *render.verify_lines(results)])
    if problem is not None:
        raise problem
    return 0


@quiet_engines()
def inspect(args: argparse.Namespace) -> int:
    """Describe the bundle, and the variant that would run on this machine."""
    options = load_options(args, _print_event)
    with open_bundle(args.bundle, options.trust) as bundle:
        manifest = bundle.manifest
    record = {"manifest": json.loads(manifest_to_json(manifest)), "placement": None}
    lines = [*render.manifest_lines(manifest)]
    try:
        with load_model(args.bundle, options) as model:
            placement = model.placement
    except VARIANT_ERRORS:  # the bundle can be described even if no variant runs
        _print(args, record, lines)
        raise
    _print(args, {**record, "placement": asdict(placement)}, [*lines, *render.placement_lines(placement)])
    return 0


@quiet_engines()
def run(args: argparse.Namespace) -> int:
    """Run the model once on a file."""
    with load_model(args.bundle, load_options(args, _print_event)) as model:
        sample, raw = read_sample(args.input, model.inputs)
        result = _call(model, sample, raw or args.raw)
        outputs = result if isinstance(result, dict) else {model.outputs[0].name: result}
        if args.output:
            write_outputs(args.output, outputs)
        found, lines = _results(model, outputs, args.top)
        record = {"variant": model.placement.variant, "events": [asdict(event) for event in model.events], **found}
        lines = [*render.selection_lines(model.placement), *lines]
    _print(args, record, lines)
    return 0


@quiet_engines()
def measure(args: argparse.Namespace) -> int:
    """Measure the speed on this machine, cold and warm, and print what makes the measurement unreliable."""
    from edgekit_runtime.commands import benchmark

    found = benchmark.measure(args.bundle, load_options(args, _print_event), args.seconds)
    _print(args, asdict(found), benchmark.lines(found))
    return 0


@quiet_engines()
def doctor(args: argparse.Namespace) -> int:
    """Describe this machine, its engines and accelerators, and what to install."""
    from edgekit_runtime.commands.doctor import diagnose, lines

    found = diagnose()
    _print(args, asdict(found), lines(found))
    return 0


def _run_store_command(args: argparse.Namespace) -> int:
    _print(args, *args.store_command(args))
    return 0


def _print_event(event: Event) -> None:
    print(render.event_line(event), file=sys.stderr, flush=True)


def _call(model: Model, sample: Any, raw: bool) -> Outputs:
    try:
        return model(sample, raw=raw)
    except InputMismatch as error:
        raise InputMismatch(str(error).replace(CALL_RAW, "use --raw")) from error


def _results(model: Model, outputs: dict[str, Array], top: int | None) -> tuple[dict[str, Any], list[str]]:
    """Describe the outputs as a record and as lines; the lines show the answers instead of the outputs behind them."""
    records = {name: render.output_record(out, _labels(model, name), top or TOP) for name, out in outputs.items()}
    postprocessing = model.manifest.postprocessing
    postprocessed = (postprocessing.scores, postprocessing.boxes) if postprocessing else ()
    others = (name for name in records if name not in postprocessed)
    lines = [line for name in others for line in render.output_lines(name, records[name])]
    if postprocessing is None:
        return {"outputs": records}, lines
    answers = model.postprocess(outputs)[:top]
    return {"answers": [asdict(each) for each in answers], "outputs": records}, [*render.answer_lines(answers), *lines]


def _labels(model: Model, output: str) -> tuple[str, ...]:
    return model.labels.get(output, ())


def _print(args: argparse.Namespace, record: Mapping[str, object], lines: Iterable[str]) -> None:
    print(json.dumps(_strict(record), indent=2) if args.json else "\n".join(lines))


def _strict(record: Mapping[str, object]) -> Any:
    """Make the record valid JSON: numbers that are not finite become the strings ``"NaN"`` and ``"Infinity"``."""
    return json.loads(json.dumps(record), parse_constant=str)


EXAMPLES = {
    "verify": "verify model.edgekit --require edgetpu",
    "run": "run model.edgekit cat.jpg --delegate edgetpu --delegate-options usb",
    "inspect": "inspect model.edgekit --delegate /opt/npu/libnpu_delegate.so --delegate-options cores=2,fast=1",
    "measure": "measure model.edgekit --threads auto --isolate 2",
    "doctor": "doctor --json",
}
COMMANDS = (verify, run, inspect, measure, doctor)
OLD_NAMES = {"check": "verify", "info": "inspect"}  # still accepted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edgekit_runtime", description="Run edgekit bundles.")
    names = "|".join(command.__name__ for command in (*COMMANDS, *store.COMMANDS))
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    for command in COMMANDS:
        sub = _add_command(commands, command, EXAMPLES[command.__name__])
        sub.set_defaults(function=command)
        if command is not doctor:
            add_load_options(sub, threads if command is not verify else positive)
        if command is verify:
            sub.add_argument("--files-only", action="store_true", help=FILES_ONLY_HELP)
        if command is run:
            sub.add_argument("input", metavar="INPUT", help=".npy, .npz, or an image file (needs Pillow)")
            sub.add_argument("--raw", action="store_true", help="preprocess arrays too; images always are")
            sub.add_argument("--top", type=positive, metavar="N", help=f"print at most N answers or values [{TOP}]")
            sub.add_argument("--output", metavar="FILE", help="write the outputs to a .npy or .npz")
        if command is measure:
            sub.add_argument("--seconds", type=seconds, default=3.0, metavar="N", help="time of each scenario [3]")
        sub.add_argument("--json", action="store_true", help="print JSON")
    for store_command, example in store.COMMANDS.items():
        sub = _add_command(commands, store_command, example)
        sub.set_defaults(function=_run_store_command, store_command=store_command)
        store.add_options(store_command, sub)
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_command(commands: Any, command: Callable[..., Any], example: str) -> argparse.ArgumentParser:
    """Add a command, whose help is the function's docstring."""
    text = (command.__doc__ or "").strip()
    example = f"example: python -m edgekit_runtime {example}"
    added: argparse.ArgumentParser = commands.add_parser(command.__name__, help=text, description=text, epilog=example)
    return added


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0, or the exit code of the error's family, listed in edgekit_runtime.errors.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    arguments[:1] = [OLD_NAMES.get(name, name) for name in arguments[:1]]
    args = _parser().parse_args(arguments)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more when it ends
        return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
