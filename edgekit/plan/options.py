"""What may be asked of ``edgekit convert``: by options, by a plan file, or from Python. Every value is checked here."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.plan.budget import OBJECTIVES
from edgekit_converters.records import InputShape
from edgekit_runtime.errors import DataError, PlanError, SourceError

DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True)
class Options:
    """What ``edgekit convert`` may be told; a plan file has the same keys. Paths are as typed."""

    model: str = ""
    output: str | None = None
    name: str | None = None
    version: str = "1"
    weights: str | None = None
    input_shape: tuple[str, ...] = ()
    custom_objects: str | None = None
    allow_pickle: bool = False
    keep_layout: bool = False
    device: tuple[str, ...] = ()
    quantize: tuple[str, ...] = ()
    recipe: str | None = None
    calibrate: str | None = None
    evaluate: str | None = None
    metric: str | None = None
    max_drop: float | None = None
    max_latency_ms: float | None = None
    max_size_mib: float | None = None
    objective: str | None = None
    budget_minutes: float | None = None
    jobs: int | None = None
    ray: str | None = None
    samples: int | Literal["auto"] | None = None
    layout: str | None = None
    labels: str | None = None
    scores: str | None = None
    activation: str | None = None
    threshold: float | None = None
    top: int | None = None
    boxes: str | None = None
    box_format: str | None = None
    iou: float | None = None
    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    prune: float | None = None
    prune_to: str | None = None
    sparsity: str | float | None = None
    importance: str | None = None
    round_to: int | None = None
    floor: float | None = None
    keep: tuple[str, ...] = ()
    per_layer: bool = False
    depth: bool | None = None
    rounds: int | None = None
    latency_table: str | None = None
    write_latency_table: str | None = None
    train: str | None = None
    validate: str | None = None
    epochs: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    warm_up: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    patience: int | None = None
    augment: tuple[str, ...] = ()
    temperature: float | None = None
    teacher_share: float | None = None
    hints: bool = False
    quantize_aware: str | None = None
    mixed_precision: bool = False
    seed: int | None = None
    resume: bool = False
    log_dir: str | None = None
    wandb: str | None = None
    report: str | None = None
    remedies: bool = True
    cache: bool = True


AUTO = "auto"  # for --quantize: race the schemes; for --samples: as many as ranges take to settle
RACE_KEYS = ("objective", "max_latency_ms", "max_size_mib", "budget_minutes")
PREPROCESSING_KEYS = ("resize", "scale", "mean", "std")
POSTPROCESSING_KEYS = ("scores", "activation", "threshold", "top", "boxes", "box_format", "iou")
PRUNING_KEYS = (
    "prune",
    "prune_to",
    "sparsity",
    "importance",
    "round_to",
    "floor",
    "keep",
    "per_layer",
    "depth",
    "rounds",
    "latency_table",
    "write_latency_table",
)
TABLES = {  # of a plan file
    "preprocessing": PREPROCESSING_KEYS,
    "postprocessing": POSTPROCESSING_KEYS,
    "pruning": PRUNING_KEYS,
}
FILES_READ = (
    "weights",
    "custom_objects",
    "recipe",
    "calibrate",
    "evaluate",
    "metric",
    "labels",
    "latency_table",
    "train",
    "validate",
)
PATH_KEYS = {"model", "output", *FILES_READ, "write_latency_table", "log_dir", "report"}
_FIELDS = {field.name: field for field in dataclasses.fields(Options)}


def check(options: Options) -> None:
    """Refuse values that cannot be met, before anything is started.

    Raises:
        PlanError: a value is out of its range, or an output would overwrite something else that is named.
        DataError: data, or a file of labels, are not there.
    """
    _check_numbers(options)
    if options.layout not in (None, *LAYOUTS):
        raise PlanError(f"--layout {options.layout}: {' or '.join(LAYOUTS)}")
    _check_race(options)
    _check_crew(options)
    if options.metric and not options.evaluate:
        raise PlanError("--metric needs --evaluate DATA to measure on")
    for named in (options.weights, options.custom_objects):
        if named and not Path(named).is_file():
            raise SourceError(f"{named}: no such file")
    for option, data in (("--calibrate", options.calibrate), ("--evaluate", options.evaluate)):
        if data and not file_of(data).exists():
            raise DataError(f"{option} {data}: no such file or folder")
    if options.labels:
        read_labels(Path(options.labels))


def _check_race(options: Options) -> None:
    """Hold the options of ``--quantize auto`` against it."""
    racing = AUTO in options.quantize
    if racing and len(options.quantize) > 1:
        raise PlanError(f"--quantize {AUTO} tries every scheme that the devices allow: give no other beside it")
    if racing and options.recipe:
        raise PlanError(f"--quantize {AUTO} makes its own recipes: leave --recipe out")
    if options.max_drop is not None and not options.evaluate and not racing:
        raise PlanError("--max-drop needs --evaluate DATA to measure the drop on")
    for name in RACE_KEYS:
        if getattr(options, name) is not None and not racing:
            raise PlanError(f"--{name.replace('_', '-')} goes with --quantize {AUTO}")
    if options.objective not in (None, *OBJECTIVES):
        raise PlanError(f"--objective {options.objective}: {', '.join(OBJECTIVES)}")
    for name in RACE_KEYS[1:]:
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise PlanError(f"--{name.replace('_', '-')} {value}: wanted more than 0")


def _check_crew(options: Options) -> None:
    """Hold what says who works side by side against itself, and against what there is to do."""
    for name in ("jobs", "ray"):
        if getattr(options, name) is not None and not options.evaluate and AUTO not in options.quantize:
            raise PlanError(f"--{name} goes with --evaluate or --quantize {AUTO}: nothing else is done side by side")
    if options.jobs is not None and not (type(options.jobs) is int and options.jobs >= 1):
        raise PlanError(f"--jobs {options.jobs}: 1 or more")
    if options.ray is not None and options.jobs is not None:
        raise PlanError("--ray does as many at once as its cluster has cores: leave --jobs out")
    if options.ray is not None and not options.cache:
        raise PlanError("--ray needs the cache, through which nodes give what they made: leave --no-cache out")


def check_outputs(output: Path, options: Options, *also: str) -> None:
    """Refuse a place that cannot be written to, or that holds something else that is named, by options or besides.

    Raises:
        PlanError: likewise.
    """
    outputs = {"-o": output}
    for option, named in (("--report", options.report), ("--write-latency-table", options.write_latency_table)):
        outputs |= {option: Path(named)} if named else {}
    read = [options.model, *also, *(getattr(options, name) for name in FILES_READ)]
    taken = {file_of(text).resolve() for text in read if text}
    for option, path in outputs.items():
        if not path.absolute().parent.is_dir():
            raise PlanError(f"{option} {path}: there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise PlanError(f"{option} {path}: is a folder; give the name of a file")
        if path.resolve() in taken:
            raise PlanError(f"{option} {path}: is something this conversion reads or writes already; give another name")
        taken.add(path.resolve())


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names of a text file, one a line.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--labels {path}: cannot be read as text, one label a line ({error})") from error


def parse_input_shape(text: str) -> InputShape:
    """Read ``[NAME=]1,3,32,32[:int64]``.

    Raises:
        PlanError: it is not of that form, or the batch is not 1.
    """
    name, _, rest = text.rpartition("=")
    numbers, _, dtype = rest.partition(":")
    try:
        shape = tuple(int(number) for number in numbers.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise PlanError(f"--input-shape {text!r}: such as 1,3,224,224 or image=1,3,224,224 or ids=1,128:int64")
    if shape[0] != 1:
        raise PlanError(f"--input-shape {text!r}: the first dimension is the batch, and must be 1")
    if dtype not in ("", *DTYPES):
        raise PlanError(f"--input-shape {text!r}: unknown dtype {dtype!r}")
    return InputShape(shape, name or None, dtype or None)


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan file: the keys of :class:`Options`, those of pre- and postprocessing in tables of their own.

    Relative paths in it are meant from the folder of the file.

    Raises:
        PlanError: it cannot be read, or has a key or a type nobody knows.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not TOML ({error})") from error
    tables = {name: data.pop(name) for name in TABLES if name in data}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise PlanError(f"{path}: {name} = {table!r} is not the table [{name}]")
        wrong, twice = set(table) - set(TABLES[name]), set(table) & set(data)
        if wrong or twice:
            problem = f"unknown key {min(wrong)!r}" if wrong else f"{min(twice)!r} is said twice"
            raise PlanError(f"{path}: [{name}]: {problem}; its keys are {', '.join(sorted(TABLES[name]))}")
        data |= table
    return {key: _plan_value(path, key, value) for key, value in data.items()}


def _plan_value(path: Path, key: str, value: Any) -> Any:
    """Check one entry of a plan file against the option of its name."""
    if key not in _FIELDS:
        raise PlanError(f"{path}: unknown key {key!r}; known: {', '.join(_FIELDS)}")
    wanted = str(_FIELDS[key].type)
    if wanted.startswith("tuple"):
        value = tuple(value) if isinstance(value, list) else (value,)
        kind: Any = str if "str" in wanted else (int, float)
        fits = all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    elif wanted == "bool":
        fits = isinstance(value, bool)
    elif "float" in wanted or "int" in wanted:
        fits = isinstance(value, (int, float) if "float" in wanted else int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, str)
    fits = fits or (value == AUTO and AUTO in wanted) or (isinstance(value, str) and wanted.startswith("str"))
    if not fits:
        raise PlanError(f"{path}: {key} = {value!r} is not what the option takes ({wanted})")
    if key in PATH_KEYS:
        return _beside(path, value)
    if key == "device":
        return tuple(_beside(path, name) if name.endswith(".toml") else name for name in value)
    return value


def _beside(path: Path, value: str) -> str:
    """Return a path of a plan file as seen from where the command runs."""
    return str(path.parent / value)  # an absolute path stays what it is


def _check_numbers(options: Options) -> None:
    if options.max_drop is not None and not 0 <= options.max_drop < math.inf:
        raise PlanError(f"--max-drop {options.max_drop}: a number of 0 or more, such as 0.01")
    if options.samples not in (None, AUTO) and not (type(options.samples) is int and options.samples >= 1):
        raise PlanError(f"--samples {options.samples}: {AUTO}, or 1 or more")
    if options.samples == AUTO and not options.calibrate:
        raise PlanError(f"--samples {AUTO} needs --calibrate DATA to take them from")
    if options.scale is not None and not 0 < options.scale < math.inf:
        raise PlanError(f"--scale {options.scale}: a number above 0, such as 0.00392156862745098")
    if not all(0 < value < math.inf for value in options.std):
        raise PlanError(f"--std {_joined(options.std)}: numbers above 0, which the values are divided by")
    if not all(map(math.isfinite, options.mean)):
        raise PlanError(f"--mean {_joined(options.mean)}: numbers")
    size = options.resize
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise PlanError(f"--resize {_joined(size)}: height and width, such as 224,224")


def _joined(values: tuple[float, ...]) -> str:
    return ",".join(map(str, values))


def file_of(text: str) -> Path:
    """Return the file or folder of what was typed; ``FILE.py:function`` is its file."""
    return Path(text.rpartition(":")[0] if ".py:" in text else text)
