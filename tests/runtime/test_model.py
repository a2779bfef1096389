"""A model accepts matching inputs, refuses others by name, and returns the declared shapes and dtypes."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime.errors import EngineError, InputMismatch, MalformedBundle
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant
from edgekit_runtime.inference import preprocess
from edgekit_runtime.placement.load_options import LoadOptions
from edgekit_runtime.tensors import dequantize, quantize

Make = Callable[..., Path]


@pytest.fixture
def model(bundle_path: Path) -> Any:
    """The classifier."""
    with edgekit_runtime.load(bundle_path) as opened:
        yield opened


@pytest.fixture
def x() -> np.ndarray:
    """An input of the classifier: (1, 2, 2, 3)."""
    return np.random.default_rng(5).normal(size=(1, 2, 2, 3)).astype(np.float32)


def test_it_computes(model: Any, x: np.ndarray, weights: np.ndarray) -> None:
    y = model(x)
    np.testing.assert_allclose(y, x.reshape(1, 12) @ weights.reshape(12, 4), rtol=1e-5)
    assert (y.shape, y.dtype) == ((1, 4), np.float32)
    for same in ({"image": x}, [x], (x,), [x.tolist()], x.astype(np.float64), x.copy(order="F")):
        np.testing.assert_allclose(model(same), y, rtol=1e-6)


def test_repr_names_the_variant_and_device(model: Any) -> None:
    assert [spec.name for spec in model.inputs] == ["image"]
    assert [spec.name for spec in model.outputs] == ["scores"]
    assert model.labels == {"scores": ("north", "east", "south", "west")}
    assert model.manifest.model_name == "quarters"
    assert repr(model) == "<Model 'quarters' null-float32 on null:cpu>"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), r"input 'image' must be float32 \[1, 2, 2, 3\]: its shape is \[2, 2, 3\]"),
        (np.zeros((1, 3, 2, 2), np.float32), r"its shape is \[1, 3, 2, 2\]"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"its dtype is uint8; for a raw image call model\(x, raw=True\)"),
        (np.zeros((1, 2, 2, 3), np.int64), r"its dtype is int64"),
        (np.zeros((1, 2, 2, 3), np.complex64), r"its dtype is complex64"),
        (np.zeros((1, 2, 2, 3), object), r"its dtype is object"),
        (np.full((1, 2, 2, 3), np.nan, np.float32), r"it has NaN.*first at \[0, 0, 0, 0\]"),
        (np.full((1, 2, 2, 3), -np.inf, np.float32), r"infinite"),
        (np.full((1, 2, 2, 3), 1e300), r"infinite as float32"),
        ({"picture": 1}, r"the inputs are image, but got picture"),
        ({}, r"but got none"),
        ([], r"the model has 1 inputs \(image\), but got 0"),
        (None, r"input 'image'"),
        ("cat.png", r"input 'image'"),
    ],
    ids=str,
)
def test_a_wrong_input_is_refused_by_name(model: Any, value: Any, message: str) -> None:
    with pytest.raises(InputMismatch, match=message):
        model(value)


def test_raw_images_are_preprocessed_as_declared(model: Any) -> None:
    image = np.random.default_rng(2).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    steps = model.inputs[0].preprocessing
    prepared = preprocess.apply(steps, image[None], "float32", "NHWC")
    np.testing.assert_array_equal(model(image, raw=True), model(prepared))
    np.testing.assert_array_equal(model(image[None], raw=True), model(prepared))
    np.testing.assert_array_equal(model({"image": image}, raw=True), model(prepared))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8)[:, :0],
        "cat.png",
    ],
    ids=str,
)
def test_a_raw_image_of_wrong_shape_or_dtype_is_refused(model: Any, image: Any) -> None:
    with pytest.raises(InputMismatch, match="input 'image'"):
        model(image, raw=True)


def test_a_batch_of_two_images_is_refused(model: Any) -> None:
    with pytest.raises(InputMismatch, match="its shape is"):
        model(np.zeros((2, 4, 4, 3), np.uint8), raw=True)


def test_a_raw_image_of_another_size_needs_a_resize(make: Make, manifest: Manifest) -> None:
    spec = manifest.inputs[0]
    fixed = replace(spec, preprocessing=replace(spec.preprocessing, resize=None))
    with edgekit_runtime.load(make(inputs=(fixed,))) as model:
        model(np.zeros((2, 2, 3), np.uint8), raw=True)
        with pytest.raises(InputMismatch, match="no resize is declared"):
            model(np.zeros((4, 4, 3), np.uint8), raw=True)


def test_raw_images_are_transposed_for_a_channels_first_model(make: Make, manifest: Manifest, npy: Any) -> None:
    first = replace(manifest.inputs[0], shape=(1, 3, 2, 2), layout="NCHW")
    order = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    zeros = {"golden/x.npy": npy(np.zeros((1, 1, 3, 2, 2), np.float32))}
    zeros["golden/y.npy"] = npy(np.zeros((1, 1, 4), np.float32))
    path = make(inputs=(first,), also={**zeros, "variants/null-float32/weights.npy": npy(order)})
    image = np.random.default_rng(1).integers(0, 256, (2, 2, 3)).astype(np.uint8)
    with edgekit_runtime.load(path) as model:
        last = preprocess.apply(manifest.inputs[0].preprocessing, image[None], "float32", "NHWC")
        expected = np.moveaxis(last, 3, 1).reshape(1, 12) @ order.reshape(12, 4)
        np.testing.assert_allclose(model(image, raw=True), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_a_quantized_model_takes_and_returns_floats(make_identity: Make, dtype: str) -> None:
    with edgekit_runtime.load(make_identity(dtype)) as model:
        x = np.array([[-0.3, 0.25, 7.1, 1e6]], np.float32)
        steps = quantize(x, 0.5, 3, dtype)
        y = model(x)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, dequantize(steps, 0.5, 3))
        np.testing.assert_array_equal(model(steps), y)  # the artifact's own integers go in as they are
        with pytest.raises(InputMismatch, match="NaN"):
            model(np.array([[0, 0, 0, np.nan]], np.float32))
        with pytest.raises(InputMismatch, match="its dtype is int32"):
            model(steps.astype(np.int32))


def test_an_integer_model_accepts_any_integer_dtype_in_range(make_identity: Make) -> None:
    with edgekit_runtime.load(make_identity("int32", None, None, "int32")) as model:
        x = np.array([[1, -2, 3, 2**31 - 1]])
        np.testing.assert_array_equal(model(x), x)
        assert model(x).dtype == np.int32
        with pytest.raises(InputMismatch, match="int64 values that int32 cannot hold"):
            model(x + 1)
        with pytest.raises(InputMismatch, match="its dtype is float64"):
            model(x * 1.0)


def test_a_half_precision_artifact_gives_the_declared_dtype(make_identity: Make) -> None:
    with edgekit_runtime.load(make_identity("float16", None, None, "float32")) as model:
        assert model(np.ones((1, 4), np.float32)).dtype == np.float32
        with pytest.raises(InputMismatch, match="infinite as float16"):
            model(np.full((1, 4), 1e5, np.float32))


@pytest.mark.parametrize("raw", [False, True])
def test_a_value_that_is_not_an_array_is_an_input_mismatch(bundle_path: Path, raw: bool) -> None:
    with (
        edgekit_runtime.load(bundle_path) as model,
        pytest.raises(InputMismatch, match=r"'image' .* is not an array"),
    ):
        model([[[1, 2], [3]]], raw=raw)


def test_a_closed_model_raises_an_error(bundle_path: Path, x: np.ndarray) -> None:
    model = edgekit_runtime.load(bundle_path)
    model.close()
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        model(x)


def test_close_removes_temporary_files(
    bundle_path: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Variant
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with edgekit_runtime.load(bundle_path):
        assert list(temporary.iterdir())
    assert not list(temporary.iterdir())
    broken = make(replace(variant, golden=Golden(variant.golden.outputs, (0.0,)), files=("golden/x.npy",)))
    with pytest.raises(EngineError):
        edgekit_runtime.load(broken)
    assert not list(temporary.iterdir())


def test_threads_share_a_model(model: Any) -> None:
    inputs = np.random.default_rng(9).normal(size=(8, 1, 2, 2, 3)).astype(np.float32)
    expected = [model(one) for one in inputs]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(50):
            if not np.array_equal(model(inputs[which]), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [0, -1])
def test_an_invalid_number_of_threads_is_refused(bundle_path: Path, threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        edgekit_runtime.load(bundle_path, threads=threads)


@pytest.mark.parametrize("labels", [b"north\neast\n", b"\xff\xfe\nb\nc\nd\n"])
def test_a_wrong_number_of_labels_is_refused(make: Make, labels: bytes) -> None:
    with pytest.raises(MalformedBundle, match=r"labels\.txt"):
        edgekit_runtime.load(make(also={"labels.txt": labels}))


@pytest.mark.needs_litert
def test_inputs_and_outputs_are_matched_by_name_in_any_order_of_tensors(
    make_tflite: Make, npy: Callable[..., bytes], tmp_path: Path
) -> None:
    from edgekit.bundle.writer import write_bundle

    shape = (1, 4)
    artifact = make_tflite(
        "SUB",
        ("b", shape, "float32", None, None),
        ("a", shape, "float32", None, None),
        ("difference", shape, "float32", None, None),
        inputs=2,
    )
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(2, *shape)).astype(np.float32) for _ in "ab")
    variant = Variant(
        "v", "litert", "cpu", "float32", ("m.tflite",),
        (TensorBinding(1, "a", "float32"), TensorBinding(0, "b", "float32")),
        (TensorBinding(0, "difference", "float32"),),
        Golden(("d.npy",), (1e-6,)),
    )  # fmt: skip
    manifest = Manifest(
        "sub", "1",
        (InputSpec("a", shape, "float32"), InputSpec("b", shape, "float32")),
        (OutputSpec("d", shape, "float32"),),
        (variant,), (), ("a.npy", "b.npy"),
    )  # fmt: skip
    files = {"m.tflite": artifact, "a.npy": npy(a), "b.npy": npy(b), "d.npy": npy(b - a)}
    write_bundle(manifest, files, tmp_path / "sub.edgekit")
    with edgekit_runtime.load(tmp_path / "sub.edgekit") as model:
        np.testing.assert_allclose(model({"b": b[0], "a": a[0]}), b[0] - a[0], rtol=1e-6)
        np.testing.assert_allclose(model([a[1], b[1]]), b[1] - a[1], rtol=1e-6)
        with pytest.raises(InputMismatch, match=r"2 inputs \(a, b\), but got 1"):
            model(a[0])
        with pytest.raises(InputMismatch, match="input 'b' must be"):
            model([a[0], b])


@pytest.mark.needs_openvino
def test_an_ir_runs_from_an_archive_with_its_weights_beside_it(
    make: Make,
    make_ir: Callable[[np.ndarray], Path],
    weights: np.ndarray,
    variant: Variant,
    manifest: Manifest,
    npy: Any,
) -> None:
    xml = make_ir(weights.reshape(12, 4))
    paths = ("variants/ir/model.xml", "variants/ir/model.bin")
    ir = replace(variant, name="ir", engine="openvino", files=paths)
    flat = {"golden/x.npy": npy(np.ones((1, 1, 12), np.float32))}
    flat["golden/y.npy"] = npy(weights.reshape(1, 12, 4).sum(axis=1, keepdims=True))
    files = {paths[0]: xml.read_bytes(), paths[1]: xml.with_suffix(".bin").read_bytes(), **flat}
    spec = InputSpec("features", (1, 12), "float32")
    with edgekit_runtime.load(make(ir, inputs=(spec,), also=files), threads=1) as model:
        assert (model.placement.variant, model.placement.refused) == ("ir", ())
        x = np.random.default_rng(4).normal(size=(1, 12)).astype(np.float32)
        np.testing.assert_allclose(model(x), x @ weights.reshape(12, 4), rtol=1e-4, atol=1e-5)


def test_load_options_are_the_parameters_of_load_with_their_defaults() -> None:
    parameters = inspect.signature(edgekit_runtime.load).parameters
    assert {name: parameter.default for name, parameter in parameters.items() if name != "path"} == vars(LoadOptions())
