"""An artifact that this machine cannot run is verified and measured by its twin, which runs on the CPU."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.records import Artifact, InputShape, MeasureRequest, ProbeRequest, RankRequest
from edgekit_converters.verify.acceptance import check_parity, twin_notes
from edgekit_converters.verify.latency import measure, rank
from edgekit_converters.verify.probe import probe
from edgekit_runtime.errors import EngineError

MODULE = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
"""


def test_an_artifact_that_cannot_run_needs_a_twin():
    with pytest.raises(ValueError, match="needs a twin"):
        Artifact("litert", "int8-static", (), (), (), executable=False)


def test_an_artifact_that_can_run_is_run_itself():
    artifact = Artifact("litert", "int8-static", (), (), ())
    assert artifact.runnable is artifact
    assert twin_notes(artifact) == ()


@pytest.fixture(scope="module")
def compiled(loaded, lowered, tmp_path_factory):
    """A source, and its artifact as compiled for an accelerator, with operators that only its delegate knows."""
    folder = tmp_path_factory.mktemp("twin")
    (folder / "net.py").write_text(MODULE)
    source = loaded(folder / "net.py", function="build", input_shapes=(InputShape((1, 3, 8, 8)),))
    twin = lowered(source, "litert")
    path = folder / "compiled.tflite"
    path.write_bytes(for_an_accelerator(twin.files[0]))
    return source, replace(twin, files=(path,), executable=False, twin=twin)


def for_an_accelerator(path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for code in model.operatorCodes:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"edgetpu-custom-op"
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@pytest.mark.needs_torch
def test_the_engine_refuses_the_artifact_itself(compiled):
    with pytest.raises(EngineError, match="edgetpu-custom-op"):
        OpenArtifact(replace(compiled[1], executable=True))


@pytest.mark.needs_torch
def test_parity_and_golden_outputs_come_from_the_twin(compiled, compared):
    source, artifact = compiled
    found, of_twin = compared(source, artifact), compared(source, artifact.twin)
    check_parity(artifact, found, stage="lower")
    assert found.parity == of_twin.parity
    assert np.array_equal(np.load(found.computed[0]), np.load(of_twin.computed[0]))


@pytest.mark.needs_torch
def test_latency_comes_from_the_twin(compiled, tmp_path):
    source, artifact = compiled
    reference = probe(ProbeRequest(source, source.inputs), tmp_path)
    assert measure(MeasureRequest(artifact, reference), tmp_path).runs > 0
    assert len(rank(RankRequest((artifact, artifact.twin), reference), tmp_path)) == 2


@pytest.mark.needs_torch
def test_a_note_reports_the_twin(compiled):
    (note,) = twin_notes(compiled[1])
    assert note.startswith("litert float32: this machine cannot run the artifact")
