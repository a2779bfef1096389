"""What travels between the stages: frozen records and the files they name.

A stage is a function ``(request, folder) -> record``: it writes only into ``folder`` and says in its record
what it wrote. ``Path`` fields are files whose *content* counts (see ``cache.py``); everything else counts as
the value it is. Records hold plain data, so they cross process boundaries and are kept as JSON.
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
class Cut:
    """What is left of a group of channels that can only be cut together."""

    group: str
    kept: tuple[int, ...]  # of its channels, ascending


@dataclass(frozen=True)
class Drop:
    """A residual branch that is left out."""

    branch: str


@dataclass(frozen=True)
class SourceRequest:
    """The model as the user named it."""

    kind: str  # a key of LOADERS
    path: Path
    function: str | None = None  # FILE.py:function
    weights: Path | None = None
    input_shapes: tuple[InputShape, ...] = ()  # what the user says of inputs the file does not describe
    custom_objects: Path | None = None  # a Python file that defines a Keras model's custom layers
    allow_pickle: bool = False
    keep_layout: bool = False  # refuse to give a PyTorch model NHWC image inputs
    cuts: tuple[Cut | Drop, ...] = ()  # made in a PyTorch module, in order, before ``weights`` are loaded

    @property
    def toolchain(self) -> str:
        """The toolchain that loads the model."""
        return LOADERS[self.kind].toolchain


@dataclass(frozen=True)
class Source:
    """The loaded model as the application will see it."""

    request: SourceRequest
    framework: str  # "keras", "torch", "tflite" or "openvino" (IR and ONNX)
    inputs: tuple[InputSpec, ...]  # batch 1, application layout, no preprocessing yet
    outputs: tuple[OutputSpec, ...]
    moved: tuple[bool, ...]  # an input: the model itself takes NCHW where the application gives NHWC
    scheme: str = "float32"  # what the model came in: a quantized one is bundled as it is
    code: tuple[Path, ...] = ()  # the Python files that built it
    notes: tuple[str, ...] = ()

    @property
    def toolchain(self) -> str:
        """The toolchain that loads and runs the model."""
        return self.request.toolchain

    @property
    def quantized(self) -> bool:
        """Whether there is nothing left to quantize."""
        return self.scheme != "float32"


@dataclass(frozen=True)
class Artifact:
    """A model file an engine can open, with its tensors bound to the source's inputs and outputs."""

    engine: str  # "litert" or "openvino"
    scheme: str
    files: tuple[Path, ...]  # the first is what the engine opens
    inputs: tuple[TensorBinding, ...]
    outputs: tuple[TensorBinding | JoinedBinding, ...]
    notes: tuple[str, ...] = ()
    engine_version: str | None = None  # the lowest that can open it, where the artifact tells
    spans: tuple[tuple[float, ...], ...] = ()  # an output that comes in parts without scales: how wide each ranges
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
    """Look for what makes a float artifact hard to quantize."""

    artifact: Artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet


@dataclass(frozen=True)
class Finding:
    """A pattern in an artifact that int8 would harm."""

    engine: str
    kind: str  # a key of edgekit_converters.examine.checks.DETECTORS
    node: str  # of the artifact
    description: str  # what it is, and what that means
    remedy: str  # what is done about it in int8-static


@dataclass(frozen=True)
class Split:
    """An output to be given in parts: those that its last node concatenates."""

    output: int  # place among the artifact's outputs
    axis: int
    spans: tuple[float, ...] = ()  # how wide each part ranges, where it gets no scale that tells


@dataclass(frozen=True)
class Examination:
    """What was found, and what the findings come to."""

    findings: tuple[Finding, ...] = ()
    splits: tuple[Split, ...] = ()
    nodes: tuple[tuple[str, str], ...] = ()  # (node of the artifact, its scheme), as in QuantizeRequest


@dataclass(frozen=True)
class SplitOutputsRequest:
    """Cut an artifact's outputs into parts."""

    artifact: Artifact
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class QuantizeRequest:
    """Quantize a float artifact as a recipe says."""

    artifact: Artifact
    recipe: Recipe
    inputs: tuple[InputSpec, ...]
    calibration: DataSet | None = None
    nodes: tuple[tuple[str, str], ...] = ()  # (node of the artifact, its scheme): what the recipe's rules come to

    @property
    def scheme(self) -> str:
        """What becomes of every node that is not in ``nodes``."""
        return self.recipe.scheme


@dataclass(frozen=True)
class ProbeRequest:
    """Run the source on a few inputs: the reference every artifact is compared with."""

    source: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    data: tuple[DataSet, ...] = ()  # where the samples come from, as many from each; seeded noise without
    samples: int = 8


@dataclass(frozen=True)
class Probe:
    """Inputs and what the source computes for them."""

    inputs: tuple[Path, ...]  # an input: (samples, *shape[1:]) .npy, as the model takes it
    outputs: tuple[Path, ...]  # an output: (samples, *shape[1:]) .npy


@dataclass(frozen=True)
class CompareRequest:
    """Run an artifact on a probe and compare with the source."""

    artifact: Artifact
    probe: Probe
    outputs: tuple[OutputSpec, ...]
    precision: str = "f32"


@dataclass(frozen=True)
class Parity:
    """How far an artifact's output, or a part of a joined one, is from the source's, over all samples of a probe.

    ``snr_db = 10 log10(sum(reference²) / sum((reference − output)²))``, at most 150 (equal to the bit);
    ``cosine`` is the cosine of the angle between both, flattened.
    """

    output: str
    max_abs_error: float
    snr_db: float
    cosine: float
    part: int | None = None  # of a joined output, from 0: boxes in pixels would drown the errors of scores
    largest: float = 0.0  # magnitude that the artifact computed
    step: float = 0.0  # of the tensor's own quantization, or what it would be in int8; 0 is none

    @property
    def where(self) -> str:
        """For messages."""
        return f"output {self.output!r}" + ("" if self.part is None else f", part {self.part}")


@dataclass(frozen=True)
class Comparison:
    """An artifact's parity, output by output and part by part, and what it computed."""

    parity: tuple[Parity, ...]
    computed: tuple[Path, ...]  # an output: (samples, *shape[1:]) .npy

    @property
    def worst(self) -> Parity:
        """The output, or part of one, that differs most."""
        return min(self.parity, key=lambda parity: parity.snr_db)


@dataclass(frozen=True)
class OwnMetric:
    """A user's own metric, ``--metric FILE.py:function``."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """How reports call it: without the folder, and never one of ``METRICS``."""
        return f"{self.path.name}:{self.function}"


@dataclass(frozen=True)
class EvaluationPart:
    """What some samples of an evaluation, in a row, came to."""

    first: int
    count: int
    arrays: tuple[Path, ...]  # .npy (count, ...): the metric of each sample; for an own metric every output
    seconds: float  # that it took


@dataclass(frozen=True)
class EvaluateRequest:
    """Measure the source, or one artifact of it, on evaluation data."""

    subject: Source | Artifact
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    data: DataSet
    precision: str = "f32"
    metric: OwnMetric | None = None  # without, the one of METRICS that fits
    agreement: bool = False  # the labels are the source's own answers
    parts: tuple[EvaluationPart, ...] = ()  # known already, in order; the rest is computed


@dataclass(frozen=True)
class EvaluatePartRequest:
    """Compute a part of an evaluation."""

    whole: EvaluateRequest
    first: int
    end: int  # the sample after the last
    most_s: float | None = None  # stop after so many seconds, wherever that is


@dataclass(frozen=True)
class PseudoLabelRequest:
    """Have the source answer every sample of some data: labels for data that have none."""

    source: Source
    inputs: tuple[InputSpec, ...]
    data: DataSet
    classes: bool = False  # the user says that its first output has a score a class


@dataclass(frozen=True)
class Evaluation:
    """What was measured: ``metric`` is a key of ``verify.metrics.METRICS``, or a name of OwnMetric."""

    metric: str
    value: float
    samples: int
    code: tuple[Path, ...] = ()  # the Python files that an own metric is made of
    scores: Path | None = None  # .npy (samples,): the metric of each sample, where it is a mean over them


@dataclass(frozen=True)
class MeasureRequest:
    """Time an artifact on this machine."""

    artifact: Artifact
    probe: Probe
    precision: str = "f32"


@dataclass(frozen=True)
class RankRequest:
    """Time several artifacts of one engine against each other."""

    artifacts: tuple[Artifact, ...]
    probe: Probe
    precision: str = "f32"


@dataclass(frozen=True)
class Latency:
    """Time of one call on this machine with one thread, in milliseconds."""

    p50: float
    p90: float
    runs: int
