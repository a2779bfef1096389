"""Many inputs and threads: results in order, errors after earlier results, no leaks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.writer import write_bundle
from edgekit_runtime.errors import EngineError, InputMismatch
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant
from edgekit_runtime.inference.stream import stream


@pytest.fixture
def model(bundle_path: Path) -> Iterator[Any]:
    """The classifier."""
    with edgekit_runtime.load(bundle_path) as opened:
        yield opened


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(9).normal(size=(count, 1, 2, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 2, 7, 1000, None])
def test_results_come_in_the_order_of_the_inputs(model: Any, depth: int | None) -> None:
    many = inputs(200)
    results = list(model.stream(iter(many), depth=depth))
    assert len(results) == 200
    for actual, x in zip(results, many):
        np.testing.assert_array_equal(actual, model(x))


def test_results_stay_in_order_when_later_calls_are_faster() -> None:
    with ThreadPoolExecutor(4) as threads:

        def submit(x: int) -> Any:
            return threads.submit(lambda: (time.sleep(0.02 if x % 4 == 0 else 0), x)[1])

        assert list(stream(submit, range(20), 4)) == list(range(20))


def test_inputs_are_read_at_most_depth_ahead(model: Any) -> None:
    read: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for i, x in enumerate(inputs(50)):
            read.append(i)
            yield x

    results = model.stream(source(), depth=3)
    assert read == []
    for taken in range(1, 20):
        next(results)
        assert len(read) == taken + 2
    results.close()
    assert len(read) == 21


def test_raw_images_are_preprocessed(model: Any) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 9, 7, 3)).astype(np.uint8)
    for actual, image in zip(model.stream(images, raw=True), images):
        np.testing.assert_array_equal(actual, model(image, raw=True))


def test_the_error_of_a_call_is_raised_after_earlier_results(model: Any) -> None:
    many = [*inputs(5), np.zeros((3, 3), np.float32), *inputs(5)]
    results = model.stream(many, depth=4)
    for x in many[:5]:
        np.testing.assert_array_equal(next(results), model(x))
    with pytest.raises(InputMismatch, match=r"its shape is \[3, 3\]"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    model(many[0])  # and the model is as good as before


def test_the_error_of_the_inputs_is_raised_after_earlier_results(model: Any) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from inputs(5)
        raise OSError("the camera is gone")

    results = model.stream(source(), depth=4)
    assert sum(1 for _ in zip(range(5), results)) == 5
    with pytest.raises(OSError, match="camera"):
        next(results)


@pytest.mark.parametrize("depth", [0, -3])
def test_an_invalid_depth_is_refused(model: Any, depth: int) -> None:
    with pytest.raises(ValueError, match="depth"):
        model.stream([], depth=depth)


def test_submit_returns_a_future(model: Any) -> None:
    many = inputs(30)
    futures = [model.submit(x) for x in many]
    for future, x in zip(futures, many):
        np.testing.assert_array_equal(future.result(timeout=20), model(x))
    assert isinstance(model.submit(np.zeros(3)).exception(timeout=20), InputMismatch)


def test_arun_does_not_block_the_event_loop(model: Any) -> None:
    many = inputs(30)

    async def gather() -> list[Any]:
        return await asyncio.gather(*(model.arun(x) for x in many))

    for actual, x in zip(asyncio.run(gather()), many):
        np.testing.assert_array_equal(actual, model(x))


def test_a_closed_model_refuses_calls(bundle_path: Path) -> None:
    model = edgekit_runtime.load(bundle_path)
    model.submit(inputs(1)[0]).result(timeout=20)
    model.close()
    with pytest.raises(EngineError, match="the model is closed"):
        model.submit(inputs(1)[0])
    with pytest.raises(EngineError, match="the model is closed"):
        list(model.stream(inputs(2)))


def test_closed_while_threads_run(bundle_path: Path) -> None:
    many = inputs(8)
    for _ in range(3):
        model = edgekit_runtime.load(bundle_path)
        expected = [model(x) for x in many]
        ended: list[str] = []

        def work(which: int, model: Any = model, expected: Any = expected, ended: list[str] = ended) -> None:
            try:
                while np.array_equal(model(many[which]), expected[which]):
                    pass
                ended.append("a wrong answer")
            except EngineError as error:
                ended.append(str(error))

        threads = [threading.Thread(target=work, args=(which,)) for which in range(8)]
        for thread in threads:
            thread.start()
        model.close()
        for thread in threads:
            thread.join(timeout=60)
        assert ended == ["the model is closed: load the bundle again"] * 8


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(params=["litert", "openvino"])
def product(
    request: pytest.FixtureRequest,
    make_tflite: Callable[..., Path],
    make_ir: Callable[..., Path],
    npy: Callable[..., bytes],
    tmp_path: Path,
) -> Iterator[Any]:
    """A product with a matrix, (1, 12) to (1, 4), in a real engine."""
    matrix = np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32)
    if request.param == "litert":
        ends = ("x", (1, 12), "float32", None, None), ("y", (1, 4), "float32", None, None)
        first = make_tflite("FULLY_CONNECTED", ends[0], ("w", (4, 12), "float32", None, matrix.T.copy()), ends[1])
    else:
        first = make_ir(matrix)
    artifacts = {first.name: first, **({"model.bin": first.with_suffix(".bin")} if first.suffix == ".xml" else {})}
    bindings = (TensorBinding(0, "x", "float32"),), (TensorBinding(0, "y", "float32"),)
    golden = Golden(("y.npy",), (1e-5,))
    variant = Variant("v", request.param, "cpu", "float32", tuple(artifacts), *bindings, golden)
    specs = (InputSpec("x", (1, 12), "float32"),), (OutputSpec("y", (1, 4), "float32"),)
    manifest = Manifest("product", "1", *specs, (variant,), (), ("x.npy",))
    x = np.ones((1, 1, 12), np.float32)
    write_bundle(manifest, {**artifacts, "x.npy": npy(x), "y.npy": npy(x @ matrix)}, tmp_path / "product.edgekit")
    with edgekit_runtime.load(tmp_path / "product.edgekit", threads=1, concurrency=4) as model:
        yield model


@pytest.mark.needs_litert
@pytest.mark.needs_openvino
def test_eight_threads_get_their_own_results(product: Any) -> None:
    many = np.random.default_rng(2).normal(size=(8, 1, 12)).astype(np.float32)
    expected = [product(x) for x in many]
    wrong: list[int] = []

    def work(which: int) -> None:
        wrong.extend(which for _ in range(10_000) if not np.array_equal(product(many[which]), expected[which]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert wrong == []


@pytest.mark.needs_litert
@pytest.mark.needs_openvino
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_many_calls_leak_no_memory(product: Any) -> None:
    x = np.ones((1, 12), np.float32)
    for _ in range(2000):
        product(x)
    before = resident_bytes()
    for _ in range(100_000):
        product(x)
    assert resident_bytes() - before < 2**20  # ten bytes a call


@pytest.mark.needs_litert
@pytest.mark.needs_openvino
def test_a_result_array_belongs_to_the_caller(product: Any) -> None:
    first = product(np.ones((1, 12), np.float32))
    kept = first.copy()
    product(np.zeros((1, 12), np.float32))
    np.testing.assert_array_equal(first, kept)
