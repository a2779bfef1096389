"""The options of the commands, in parts: each part is also a table of the plan file, and each command takes some.

A part holds what the user gave, checked by itself. What several options mean together is decided in
:mod:`edgekit.plan.plan` and, for pruning and training, in their own folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.plan.budget import OBJECTIVES
from edgekit.plan.option_declaration import Count, Finite, NotNegative, Option, Positive
from edgekit_converters.prune import IMPORTANCES
from edgekit_converters.train import OPTIMIZERS, SCHEDULES
from edgekit_converters.train.augment import AUGMENTATIONS
from edgekit_runtime.errors import DataError, SourceError
from edgekit_runtime.inference.postprocess import ACTIVATIONS, BOX_FORMATS

LAYOUTS = ("NHWC", "NCHW")
AUTO = "auto"  # for --quantize: search the schemes; for --samples: until the calibration ranges settle
DATA = "a folder of images, .npz, .npy or FILE.py:function"


@dataclass(frozen=True)
class ModelInput:
    """The model to open."""

    model: Annotated[
        str, Option("The model file, a SavedModel folder, or FILE.py:function.", "MODEL", path="reads")
    ] = ""
    name: Annotated[str | None, Option("The model's name in the bundle.  [default: the file's name]")] = None
    weights: Annotated[
        str | None, Option("State dict for FILE.py:function.", "FILE", path="reads", missing=SourceError)
    ] = None
    input_shape: Annotated[
        tuple[str, ...], Option("Shape of an input that the model leaves open; repeatable.", "[NAME=]1,3,H,W")
    ] = ()
    custom_objects: Annotated[
        str | None,
        Option("Python file with the Keras model's custom layers.", "FILE.py", path="reads", missing=SourceError),
    ] = None
    allow_pickle: Annotated[bool, Option("Load pickled modules and Lambda layers. This runs the file's code.")] = False
    keep_layout: Annotated[bool, Option("Keep NCHW inputs of a PyTorch model instead of converting to NHWC.")] = False


@dataclass(frozen=True)
class PreprocessingOptions:
    """How the bundle turns an image into the model's input."""

    resize: Annotated[
        tuple[Count, Count] | None,
        Option("Preprocessing: resize images to this size.", "H,W", accepts="height and width, such as 224,224"),
    ] = None
    scale: Annotated[Positive | None, Option("Preprocessing: multiply by S first, such as 0.00392157.", "S")] = None
    mean: Annotated[tuple[Finite, ...], Option("Preprocessing: subtract per channel, after --scale.", "a,b,c")] = ()
    std: Annotated[tuple[Positive, ...], Option("Preprocessing: divide per channel, last.", "a,b,c")] = ()


@dataclass(frozen=True)
class DataOptions:
    """The data for calibration and evaluation."""

    calibrate: Annotated[str | None, Option(f"Calibration data: {DATA}.", "DATA", path="reads", missing=DataError)] = (
        None
    )
    evaluate: Annotated[
        str | None, Option("Labelled data to measure accuracy on.", "DATA", path="reads", missing=DataError)
    ] = None
    metric: Annotated[
        str | None,
        Option("Your metric: (outputs, labels) -> score, higher is better.", "FILE.py:FUNC", path="reads"),
    ] = None
    samples: Annotated[
        Literal["auto"] | Count | None,
        Option("Use at most N calibration samples; auto: until the ranges settle.", "N|auto"),
    ] = None
    layout: Annotated[str | None, Option("Layout of the data, where it is ambiguous.", choices=LAYOUTS)] = None


@dataclass(frozen=True)
class TargetOptions:
    """The devices, and how artifacts are quantized for them."""

    device: Annotated[
        tuple[str, ...], Option("Device name, or path of a device profile; repeatable.", "NAME", "-d")
    ] = ()
    quantize: Annotated[
        tuple[str, ...],
        Option(
            "float32, float16, int8-dynamic, int8-weights, int8-static (int8), int16x8-static, int4-weights; "
            "repeatable. auto searches for the best.",
            "SCHEME",
            "-q",
        ),
    ] = ()
    recipe: Annotated[
        str | None,
        Option("Quantize layers by the rules in this file; see `edgekit layers MODEL`.", "FILE.toml", path="reads"),
    ] = None
    auto_fix: Annotated[
        bool,
        Option(
            "Quantize the graph as it is: do not split outputs, keep no layer in float.",
            aliases=("remedies",),
            negative=True,
        ),
    ] = True


@dataclass(frozen=True)
class BudgetOptions:
    """What a variant may cost, and how ``--quantize auto`` searches."""

    max_drop: Annotated[
        NotNegative | None,
        Option("Refuse a bundle that loses more of the metric (absolute, such as 0.01).", "X"),
    ] = None
    objective: Annotated[
        str | None, Option("With -q auto: what to optimize.  [default: latency]", choices=OBJECTIVES)
    ] = None
    max_latency_ms: Annotated[Positive | None, Option("With -q auto: maximum latency on this machine.", "MS")] = None
    max_size_mib: Annotated[Positive | None, Option("With -q auto: maximum size of an artifact.", "MIB")] = None
    budget_minutes: Annotated[
        Positive | None, Option("With -q auto: start no new candidate after this time.  [default: 20]", "MIN")
    ] = None


@dataclass(frozen=True)
class PruningOptions:
    """What to prune, and how far."""

    prune: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Option(
            "Prune this fraction of all channels, such as 0.5.",
            "R",
            accepts="the fraction of channels to remove, above 0 and below 1, such as 0.5",
        ),
    ] = None
    prune_to: Annotated[
        str | None, Option("Prune until latency, size or macs are at this fraction, such as latency=0.5.", "GOAL=R")
    ] = None
    sparsity: Annotated[
        str | float | None,
        Option("Set this fraction of the weights to zero; or keep N of every M, such as 2:4.", "S|N:M"),
    ] = None
    importance: Annotated[
        str | None,
        Option("Pruning: importance measure of channels.  [default: taylor, l2 without data]", choices=IMPORTANCES),
    ] = None
    round_to: Annotated[
        Count | None, Option("Pruning: keep a multiple of N channels.  [default: 8, less in narrow layers]", "N")
    ] = None
    min_channel_ratio: Annotated[
        Annotated[float, Meta(ge=0, lt=1)] | None,
        Option(
            "Pruning: keep at least this fraction of every layer.  [default: 0.1]",
            "R",
            aliases=("floor",),
            accepts="the fraction of channels every layer keeps, 0 or more and below 1",
        ),
    ] = None
    exclude_layer: Annotated[
        tuple[str, ...],
        Option("Pruning: do not prune this layer; a pattern, repeatable.", "LAYER", aliases=("keep",)),
    ] = ()
    per_layer: Annotated[
        bool, Option("Pruning: the same ratio in every layer, instead of ranking channels globally.")
    ] = False
    depth_pruning: Annotated[
        bool | None,
        Option("Pruning: may remove whole residual branches.  [default: with training]", aliases=("depth",)),
    ] = None
    rounds: Annotated[Count | None, Option("Pruning: prune and fine-tune in N rounds.  [default: 1]", "N")] = None
    latency_table: Annotated[
        str | None,
        Option("Pruning: layer latencies measured on another machine.", "FILE", path="reads"),
    ] = None
    write_latency_table: Annotated[
        str | None, Option("Pruning: write the measured layer latencies.", "FILE", path="writes")
    ] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How to train after pruning, for quantization, or from a teacher."""

    train: Annotated[str | None, Option(f"Training data: {DATA}.", "DATA", path="reads", missing=DataError)] = None
    validate: Annotated[
        str | None,
        Option(
            "Data that select the best epoch.  [default: a tenth of --train]", "DATA", path="reads", missing=DataError
        ),
    ] = None
    epochs: Annotated[Count | None, Option("Passes over the training data.  [default: 10]", "N")] = None
    optimizer: Annotated[str | None, Option("Set the optimizer.  [default: adam]", choices=OPTIMIZERS)] = None
    learning_rate: Annotated[Positive | None, Option("Peak learning rate.  [default: 0.001]", "X")] = None
    schedule: Annotated[str | None, Option("Learning rate schedule.  [default: cosine]", choices=SCHEDULES)] = None
    warmup_epochs: Annotated[
        NotNegative | None,
        Option("Epochs in which the learning rate rises.  [default: 0.5]", "N", aliases=("warm_up",)),
    ] = None
    batch_size: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Option(
            "Samples per step.  [default: 64]",
            "N",
            accepts="a whole number of 2 or more: normalization needs several samples",
        ),
    ] = None
    weight_decay: Annotated[NotNegative | None, Option("Weight decay.  [default: 0]", "X")] = None
    patience: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Option("Stop after N epochs without improvement.  [default: never]", "N"),
    ] = None
    augment: Annotated[
        tuple[str, ...],
        Option("Augment training images: flip, shift; repeatable.", "NAME", choices=tuple(AUGMENTATIONS)),
    ] = ()
    temperature: Annotated[Positive | None, Option("Softmax temperature of the teacher.  [default: 4]", "T")] = None
    distillation_weight: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Option(
            "Weight of the teacher in the loss; the labels have the rest.  [default: 0.7]",
            "X",
            aliases=("teacher_share",),
            accepts="a number from 0 (labels only) to 1 (teacher only)",
        ),
    ] = None
    attention_transfer: Annotated[bool, Option("Also match the teacher's attention maps.", aliases=("hints",))] = False
    quantize_aware: Annotated[
        str | None,
        Option("Quantization-aware training: int8-static, int16x8-static, int8-weights or int4-weights.", "SCHEME"),
    ] = None
    mixed_precision: Annotated[bool, Option("Compute in bfloat16 where that is safe.")] = False
    seed: Annotated[Annotated[int, Meta(ge=0)] | None, Option("Random seed of the training.  [default: 0]", "N")] = None
    resume: Annotated[bool, Option("Continue an interrupted training after its last finished epoch.")] = False
    log_dir: Annotated[str | None, Option("Write TensorBoard event files.", "FOLDER", path="folder")] = None
    wandb: Annotated[str | None, Option("Log to this Weights & Biases project.", "PROJECT")] = None


@dataclass(frozen=True)
class PostprocessingOptions:
    """What the outputs mean, for the bundle."""

    scores: Annotated[
        str | None, Option("Postprocessing: the output with class scores, if there are several outputs.", "OUTPUT")
    ] = None
    activation: Annotated[
        str | None, Option("Postprocessing: turns the output into scores.", choices=tuple(ACTIVATIONS))
    ] = None
    threshold: Annotated[Finite | None, Option("Postprocessing: minimum score.  [default: 0; 0.25 for boxes]", "X")] = (
        None
    )
    top: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 16)] | None,
        Option("Postprocessing: maximum number of classes or boxes.  [default: 5; of boxes 100]", "N"),
    ] = None
    boxes: Annotated[
        str | None, Option("Postprocessing: the output with boxes; it may also hold the scores.", "OUTPUT")
    ] = None
    box_format: Annotated[
        str | None, Option("Postprocessing: the four numbers of a box.", choices=tuple(BOX_FORMATS))
    ] = None
    iou: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Option("NMS: maximum IoU of two boxes of one class.  [default: 0.5]", "X"),
    ] = None


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    output: Annotated[str | None, Option("The file to write.", "OUT", "-o", path="writes")] = None
    version: Annotated[str, Option("The model's version in the bundle.  [default: 1]")] = "1"
    labels: Annotated[str | None, Option("Class names, one per line; results carry them.", "FILE", path="reads")] = None
    report: Annotated[
        str | None, Option("Write a report: JSON, or an HTML page with a chart.", "FILE.json|.html", path="writes")
    ] = None


@dataclass(frozen=True)
class ExecutionOptions:
    """Where and how the stages run."""

    jobs: Annotated[
        Count | None, Option("Worker processes per engine, for search and evaluation.  [default: cores]", "N")
    ] = None
    ray: Annotated[
        str | None, Option("Search and evaluate on a Ray cluster whose nodes share these files.", "ADDRESS")
    ] = None
    cache: Annotated[bool, Option("Do not use or store stage results.", negative=True)] = True


@dataclass(frozen=True)
class ConversionOptions:
    """The options of ``edgekit convert``: all parts."""

    model_input: ModelInput
    preprocessing: PreprocessingOptions
    data: DataOptions
    targets: TargetOptions
    budget: BudgetOptions
    pruning: PruningOptions
    training: TrainingOptions
    postprocessing: PostprocessingOptions
    outputs: OutputOptions
    execution: ExecutionOptions


@dataclass(frozen=True)
class LayersOptions:
    """The options of ``edgekit layers``."""

    model_input: ModelInput
    targets: TargetOptions
    execution: ExecutionOptions


@dataclass(frozen=True)
class SensitivityOptions:
    """The options of ``edgekit sensitivity`` that other commands have, too."""

    model_input: ModelInput
    preprocessing: PreprocessingOptions
    data: DataOptions
    targets: TargetOptions
    outputs: OutputOptions
    execution: ExecutionOptions


@dataclass(frozen=True)
class PruneOptions:
    """The options of ``edgekit prune``."""

    model_input: ModelInput
    preprocessing: PreprocessingOptions
    data: DataOptions
    targets: TargetOptions
    pruning: PruningOptions
    training: TrainingOptions
    outputs: OutputOptions
    execution: ExecutionOptions


@dataclass(frozen=True)
class TeacherOptions:
    """The options of ``edgekit distill`` for the teacher."""

    model_input: ModelInput
    preprocessing: PreprocessingOptions
    data: DataOptions


@dataclass(frozen=True)
class StudentOptions:
    """The options of ``edgekit distill`` for the student and its training."""

    model_input: ModelInput
    preprocessing: PreprocessingOptions
    data: DataOptions
    training: TrainingOptions
    outputs: OutputOptions
    execution: ExecutionOptions
