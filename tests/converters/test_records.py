"""Records cross processes and the cache as JSON and come back as they were."""

import json
from pathlib import Path

import pytest

from edgekit_converters.execution.stage_cache_json import decode, encode
from edgekit_converters.records import (
    Artifact,
    Comparison,
    InputShape,
    LowerRequest,
    Parity,
    Source,
    SourceRequest,
)
from edgekit_runtime.format.manifest import InputSpec, OutputSpec, Preprocessing, TensorBinding

SOURCE = Source(
    request=SourceRequest("python", Path("/models/net.py"), "build", input_shapes=(InputShape((1, 3, 8, 8), "x"),)),
    framework="torch",
    inputs=(InputSpec("x", (1, 8, 8, 3), "float32", "NHWC", Preprocessing((8, 8), 1 / 255, (0.5,), (0.25,))),),
    outputs=(OutputSpec("y", (1, 4), "float32"),),
    transposed=(True,),
    code=(Path("/models/net.py"),),
    notes=("a note",),
)


def through_json(record, root):
    return decode(json.loads(json.dumps(encode(record, root))), root)


@pytest.mark.parametrize(
    "record",
    [
        SOURCE,
        LowerRequest(SOURCE, "litert"),
        Comparison((Parity("y", 0.25, 31.5, 0.999),), (Path("/cache/computed-0.npy"),)),
        Artifact("openvino", "int8-static", (Path("/a.xml"),), (TensorBinding(0, "x", "int8", 0.5, -3),), ()),
    ],
)
def test_a_record_comes_back_equal(record, tmp_path):
    assert through_json(record, tmp_path) == record


def test_files_of_a_stage_move_with_its_folder(tmp_path):
    kept = Artifact("litert", "float32", (tmp_path / "old" / "model.tflite", Path("/elsewhere")), (), ())
    data = json.loads(json.dumps(encode(kept, tmp_path / "old")))
    assert decode(data, tmp_path / "new").files == (tmp_path / "new" / "model.tflite", Path("/elsewhere"))


def test_a_class_of_another_package_is_never_made(tmp_path):
    with pytest.raises(ValueError, match="not a record of edgekit: subprocess"):
        decode({"$record": "subprocess:Popen", "args": ["true"]}, tmp_path)


def test_an_artifact_weighs_all_its_files(tmp_path):
    for name, size in (("model.xml", 3), ("model.bin", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert Artifact("openvino", "float32", (tmp_path / "model.xml", tmp_path / "model.bin"), (), ()).size_bytes == 8
