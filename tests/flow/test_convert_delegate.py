"""A profile names a delegate: the bundle has a variant for it, and the CPU runs the model where it is missing."""

import platform
from dataclasses import replace

import numpy as np
import pytest

import edgekit
import edgekit_runtime
from edgekit.conversion import stages
from edgekit_runtime.engines.delegates import DELEGATES
from edgekit_runtime.errors import EngineError

pytestmark = pytest.mark.needs_keras

PROFILE = """
name = "board"
title = "A board with an NPU"
arch = "{arch}"
targets = ["litert:npu", "litert:cpu"]
schemes = ["int8-static"]
precision = "f32"
verified = "no"
accelerator = "edgetpu"

[delegates]
"litert:npu" = "edgetpu"

[source]
arch = "its data sheet"
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory, _own_cache):
    """The report of a conversion, and the path of its bundle."""
    import keras
    from keras import layers

    folder = tmp_path_factory.mktemp("delegate")
    (folder / "board.toml").write_text(PROFILE.format(arch=platform.machine()))
    x = keras.Input((8, 8, 3))
    keras.Model(x, layers.Dense(4)(layers.Flatten()(layers.Conv2D(4, 3)(x)))).save(folder / "net.keras")
    np.savez(folder / "train.npz", x=np.random.default_rng(0).random((100, 8, 8, 3), np.float32))
    bundle = folder / "net.edgekit"
    report = edgekit.convert(
        folder / "net.keras", bundle, device=[folder / "board.toml"], quantize=["int8"], calibrate=folder / "train.npz"
    )
    return report, bundle


def test_the_manifest_names_the_delegate_of_the_first_variant(converted):
    with edgekit_runtime.open_bundle(converted[1]) as bundle:
        variants = [(one.name, one.device, one.delegate) for one in bundle.manifest.variants]
        files = {one.files for one in bundle.manifest.variants}
    assert variants == [("litert-edgetpu-int8-static", "npu", "edgetpu"), ("litert-int8-static", "cpu", None)]
    assert len(files) == 1  # one artifact for both
    assert all(one.delegate is None or one.delegate in DELEGATES for one in bundle.manifest.variants)


def test_no_note_says_that_the_accelerator_is_unused(converted):
    assert not [note for note in converted[0].notes if "edgetpu" in note]


def test_without_the_delegates_library_the_cpu_runs_it(converted):
    with edgekit_runtime.load(converted[1]) as model:
        assert model.placement.variant == "litert-int8-static"
        assert "libedgetpu" in str(model.placement)
        assert model(np.zeros((1, 8, 8, 3), np.float32)) is not None


def test_a_compiled_artifact_is_bundled_and_its_twin_is_verified(converted, monkeypatch):
    """A compiler is a stage that returns what it compiled, with the artifact it compiled as the twin."""
    folder, quantize = converted[1].parent, stages.quantize

    def compile_quantized(*arguments):
        twin = quantize(*arguments)
        path = folder / "compiled.tflite"
        path.write_bytes(compiled_for_an_accelerator(twin.files[0]))
        return replace(twin, files=(path,), executable=False, twin=twin)

    monkeypatch.setattr(stages, "quantize", compile_quantized)
    bundle_path = folder / "compiled.edgekit"
    report = edgekit.convert(
        folder / "net.keras",
        bundle_path,
        device=[folder / "board.toml"],
        quantize=["int8"],
        calibrate=folder / "train.npz",
    )
    assert [note for note in report.notes if "this machine cannot run the artifact" in note]
    with edgekit_runtime.open_bundle(bundle_path) as made, edgekit_runtime.open_bundle(converted[1]) as plain:
        (variant, *_), (twin, *_) = made.manifest.variants, plain.manifest.variants
        with open(made.local_path(variant.files[0]), "rb") as file:
            assert file.read() == (folder / "compiled.tflite").read_bytes()
        for ours, theirs in zip(variant.golden.outputs, twin.golden.outputs, strict=True):
            with open(made.local_path(ours), "rb") as one, open(plain.local_path(theirs), "rb") as other:
                assert one.read() == other.read()
    with pytest.raises(EngineError):
        edgekit_runtime.load(bundle_path)


def compiled_for_an_accelerator(path):
    """The file with operators that only an accelerator's delegate knows."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for code in model.operatorCodes:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"edgetpu-custom-op"
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
