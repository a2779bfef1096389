"""The requests and records that pass between stages, and the files they name.

A stage is a function ``(request, folder) -> record``. It writes only into ``folder``, and its record names the files.
The cache compares files (``Path`` fields) by content and all other fields by value (``execution/stage_cache.py``).
Records hold plain data, so that they can be sent to another process and stored as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.data.samples import DataSet
from edgekit_converters.frameworks.loaders import LOADERS
from edgekit_converters.recipe.recipe import Recipe
from edgekit_runtime.format.manifest import InputSpec, JoinedBinding, OutputSpec, TensorBinding


@dataclass(frozen=True)
class InputShape:
    """``--input-shape [NAME=]1,3,32,32[:int64]``."""

    shape: tuple[int, ...]  # with the batch, which is 1
    name: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class ChannelCut:
    """The channels of a group that stay; the others are removed."""

    group: str
    kept: tuple[int, ...]  # indices of its channels, ascending


@dataclass(frozen=True)
class BranchRemoval:
    """A residual branch that is removed."""

    branch: str


@dataclass(frozen=True)
class SourceRequest:
    """How to open a model."""

    kind: str  # a key of LOADERS
    path: Path
    function: str | None = None  # FILE.py:function
    weights: Path | None = None
    input_shapes: tuple[InputShape, ...] = ()  # given by the user, for inputs that the file does not describe
    custom_objects: Path | None = None  # a Python file that defines a Keras model's custom layers
    allow_pickle: bool = False
    keep_layout: bool = False  # leave the image inputs of a PyTorch model in NCHW
    cuts: tuple[
        ChannelCut | BranchRemoval, ...
    ] = ()  # applied to a PyTorch module, in order, before ``weights`` are loaded

    @property
    def toolchain(self) -> str:
        """The toolchain that loads the model."""
        return LOADERS[self.kind].toolchain


@dataclass(frozen=True)
class Source:
    """A loaded model: its inputs and outputs as an application sees them."""

    request: SourceRequest
    framework: str  # a key of FRAMEWORKS; "openvino" for IR and ONNX
    inputs: tuple[InputSpec, ...]  # batch 1, application layout, no preprocessing yet
    outputs: tuple[OutputSpec, ...]
    transposed: tuple[bool, ...]  # for each input: the model takes NCHW where the application gives NHWC
    scheme: str = "float32"  # of the model file; a quantized model is bundled unchanged
    code: tuple[Path, ...] = ()  # the Python files that built it
    notes: tuple[str, ...] = ()

    @property
    def toolchain(self) -> str:
        """The toolchain that loads and runs the model."""
        return self.request.toolchain

    @property
    def quantized(self) -> bool:
        """Whether the model file is quantized already."""
        return self.scheme != "float32"


@dataclass(frozen=True)
class Artifact:
    """A model file an engine can open, with its tensors bound to the source's inputs and outputs."""

    engine: str  # a key of FORMATS
    scheme: str
    files: tuple[Path, ...]  # the first is what the engine opens
    inputs: tuple[TensorBinding, ...]
    outputs: tuple[TensorBinding | JoinedBinding, ...]
    notes: tuple[str, ...] = ()
    engine_version: str | None = None  # the lowest that can open it, if known
    part_ranges: tuple[
        tuple[float, ...], ...
    ] = ()  # for each output split into parts without scales: the range width of each part
    executable: bool = True  # False: compiled for an accelerator that this machine does not have
    twin: Artifact | None = None  # the same model for this machine's CPU, verified and measured in its place

    def __post_init__(self) -> None:
        """Check that there is an artifact to verify.

        Raises:
            ValueError: this machine cannot run the artifact and there is no twin.
        """
        if not self.executable and self.twin is None:
            raise ValueError(f"{self.engine} {self.scheme}: an artifact that this machine cannot run needs a twin")

    @property
    def runnable(self) -> Artifact:
        """The artifact that this machine runs: this one, or its twin."""
        return self if self.executable or self.twin is None else self.twin

    @property
    def toolchain(self) -> str:
        """The toolchain that runs the artifact: that of its engine."""
        return self.engine

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class LowerRequest:
    """Lower a source to one format."""

    source: Source
    engine: str


@dataclass(frozen=True)
class ExamineRequest:
    """Find what makes a float artifact hard to quantize."""

    artifact: Artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet


@dataclass(frozen=True)
class Finding:
    """A pattern in an artifact that int8 would harm."""

    engine: str
    kind: str  # a key of edgekit_converters.examine.detectors.DETECTORS
    node: str  # of the artifact
    description: str  # what it is, and what that means
    remedy: str  # what is done about it in int8-static


@dataclass(frozen=True)
class Split:
    """An output to split into the parts that its last node concatenates."""

    output: int  # index among the artifact's outputs
    axis: int
    part_ranges: tuple[float, ...] = ()  # range width of each part, if it gets no scale of its own


@dataclass(frozen=True)
class Examination:
    """The findings, and the remedies that follow from them."""

    findings: tuple[Finding, ...] = ()
    splits: tuple[Split, ...] = ()
    nodes: tuple[tuple[str, str], ...] = ()  # (node of the artifact, its scheme), as in QuantizeRequest


@dataclass(frozen=True)
class SplitOutputsRequest:
    """Split outputs of an artifact into parts."""

    artifact: Artifact
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class QuantizeRequest:
    """Quantize a float artifact with a recipe."""

    artifact: Artifact
    recipe: Recipe
    inputs: tuple[InputSpec, ...]
    calibration: DataSet | None = None
    nodes: tuple[tuple[str, str], ...] = ()  # (node of the artifact, its scheme), from the recipe's rules

    @property
    def scheme(self) -> str:
        """The scheme of all nodes that are not in ``nodes``."""
        return self.recipe.scheme


@dataclass(frozen=True)
class ProbeRequest:
    """Run the source on a few samples; every artifact is compared with its outputs."""

    source: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    data: tuple[DataSet, ...] = ()  # equally many samples are taken from each set; without data, seeded noise
    samples: int = 8


@dataclass(frozen=True)
class Probe:
    """A few input samples, and the source's outputs for them."""

    inputs: tuple[Path, ...]  # for each input: (samples, *shape[1:]) .npy, preprocessed
    outputs: tuple[Path, ...]  # for each output: (samples, *shape[1:]) .npy


@dataclass(frozen=True)
class CompareRequest:
    """Run an artifact on a probe and compare with the source."""

    artifact: Artifact
    probe: Probe
    outputs: tuple[OutputSpec, ...]
    precision: str = "f32"


@dataclass(frozen=True)
class Parity:
    """The difference of an artifact's output, or of a part of it, from the source's over all samples of a probe.

    ``snr_db = 10 log10(sum(reference²) / sum((reference − output)²))``, at most 150 (bit-identical);
    ``cosine`` is the cosine of the angle between both, flattened.
    """

    output: str
    max_abs_error: float
    snr_db: float
    cosine: float
    part: int | None = (
        None  # index of the part of a joined output: errors of boxes in pixels would hide those of scores
    )
    largest: float = 0.0  # absolute value that the artifact computed
    step: float = 0.0  # quantization step of the tensor, or what it would be in int8; 0: not quantized

    @property
    def location(self) -> str:
        """For messages."""
        return f"output {self.output!r}" + ("" if self.part is None else f", part {self.part}")


@dataclass(frozen=True)
class Comparison:
    """The parity of an artifact's outputs and their parts, and the computed outputs."""

    parity: tuple[Parity, ...]
    computed: tuple[Path, ...]  # for each output: (samples, *shape[1:]) .npy

    @property
    def worst(self) -> Parity:
        """The output, or part of an output, that differs most."""
        return min(self.parity, key=lambda parity: parity.snr_db)


@dataclass(frozen=True)
class UserMetric:
    """A metric function of the user, ``--metric FILE.py:function``."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """The name in reports: file and function without the folder, which no key of ``METRICS`` looks like."""
        return f"{self.path.name}:{self.function}"


@dataclass(frozen=True)
class EvaluationPart:
    """The results of some consecutive samples of an evaluation."""

    first: int
    count: int
    arrays: tuple[Path, ...]  # .npy (count, ...): the metric of each sample; for a user's metric every output
    seconds: float


@dataclass(frozen=True)
class EvaluateRequest:
    """Evaluate the source, or an artifact of it, on data."""

    subject: Source | Artifact
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    data: DataSet
    precision: str = "f32"
    metric: UserMetric | None = None  # None: the first of METRICS that fits
    agreement: bool = False  # the labels are the source's own outputs
    parts: tuple[EvaluationPart, ...] = ()  # computed already, in order; the other samples are computed


@dataclass(frozen=True)
class EvaluatePartRequest:
    """Compute the results of some consecutive samples of an evaluation."""

    evaluation: EvaluateRequest
    first: int
    end: int  # exclusive
    limit_s: float | None = None  # stop after so many seconds


@dataclass(frozen=True)
class PseudoLabelRequest:
    """Label data that have no labels with the source's outputs."""

    source: Source
    inputs: tuple[InputSpec, ...]
    data: DataSet
    classes: bool = False  # the user says that the first output has a score for each class


@dataclass(frozen=True)
class Evaluation:
    """The value of a metric; ``metric`` is a key of ``verify.metrics.METRICS``, or the name of a UserMetric."""

    metric: str
    value: float
    samples: int
    code: tuple[Path, ...] = ()  # the Python files of a user's metric
    scores: Path | None = None  # .npy (samples,): the metric of each sample, if its mean is the value


@dataclass(frozen=True)
class MeasureRequest:
    """Time an artifact on this machine."""

    artifact: Artifact
    probe: Probe
    precision: str = "f32"


@dataclass(frozen=True)
class RankRequest:
    """Time several artifacts of one engine in turns."""

    artifacts: tuple[Artifact, ...]
    probe: Probe
    precision: str = "f32"


@dataclass(frozen=True)
class Latency:
    """Time of one call on this machine with one thread, in milliseconds."""

    p50: float
    p90: float
    runs: int
