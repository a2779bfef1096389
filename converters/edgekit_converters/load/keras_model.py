"""Keras models of both generations, and SavedModel folders, as one kind of handle."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit_converters.load import Live, fixed_shape, in_batches, said_shape
from edgekit_converters.load.python_function import import_file
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.manifest import InputSpec, OutputSpec

CUSTOM_LAYER = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|\w+ function|object):?) '?([\w>.]+)'?"
)


@dataclass(frozen=True)
class KerasHandle:
    """What lowering needs: the computation, and the variables it reads."""

    serve: Callable[..., list[Any]]  # tensors in, a flat list of tensors out
    variables: list[Any]


@contextlib.contextmanager
def keras_errors(path: Path) -> Iterator[None]:
    """Map what Keras and TensorFlow raise while loading to a SourceError that says what to do."""
    try:
        yield
    except (
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        OSError,
        ImportError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        tf.errors.OpError,
    ) as error:
        message = str(error)
        custom = CUSTOM_LAYER.search(message)
        if custom:
            raise SourceError(
                f"{path}: the model has a custom layer or function, {custom.group(1)!r}, that Keras does not know.\n"
                f"Pass the file that defines it, --custom-objects FILE.py, "
                f"or a function that returns the built model: FILE.py:function"
            ) from error
        if "Lambda" in message and "safe" in message.lower():
            raise SourceError(
                f"{path}: the model holds a Lambda layer, which is pickled code; "
                f"if you trust the file, add --allow-pickle"
            ) from error
        first = next((line for line in message.splitlines() if line.strip()), type(error).__name__)
        raise SourceError(f"{path}: not a model Keras can load ({type(error).__name__}: {first})") from error


def load_file(request: SourceRequest) -> Live:
    """Load ``.keras`` or ``.h5``; what Keras 3 refuses is loaded with tf_keras, the Keras-2 code line."""
    with keras_errors(request.path):
        model, notes = _load_either(request)
    return from_model(model, request, notes=notes)


def _load_either(request: SourceRequest) -> tuple[Any, tuple[str, ...]]:
    import keras

    custom = _custom_objects(request)
    try:
        return (
            keras.models.load_model(
                request.path, compile=False, custom_objects=custom, safe_mode=not request.allow_pickle
            ),
            (),
        )
    except (TypeError, ValueError, AttributeError, KeyError, NotImplementedError) as refusal:
        if request.path.suffix.lower() == ".keras" and not _written_by_keras2(request.path):
            raise
        import tf_keras

        try:
            model = tf_keras.models.load_model(
                request.path, compile=False, custom_objects=custom, safe_mode=not request.allow_pickle
            )
        except TypeError as error:
            raise refusal from error
        return model, ("loaded with tf_keras: Keras 3 refuses this Keras-2 file",)


def _written_by_keras2(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive, contextlib.suppress(KeyError):
        return b'"keras_version": "2' in archive.read("metadata.json")
    return False


def _custom_objects(request: SourceRequest) -> dict[str, Any] | None:
    if request.custom_objects is None:
        return None
    module = import_file(request.custom_objects)
    return {name: item for name, item in vars(module).items() if callable(item) and not name.startswith("_")}


def from_model(model: Any, request: SourceRequest, *, notes: tuple[str, ...] = (), code: tuple[Path, ...] = ()) -> Live:
    """Wrap a Keras model of either generation.

    Raises:
        SourceError: its inputs are not known: it was never built, and no ``--input-shape`` was given.
    """
    inputs = _input_specs(model, request)

    def serve(*tensors: Any) -> list[Any]:
        result = model(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
        return list(tf.nest.flatten(result))

    # Keras 3 wraps TensorFlow's variables; only those themselves are frozen into constants by the converters
    variables = [variable if isinstance(variable, tf.Variable) else variable.value for variable in model.variables]
    names = [str(name) for name in getattr(model, "output_names", None) or []]
    return _live(serve, variables, inputs, names, request, notes + _custom_note(request), code)


def _custom_note(request: SourceRequest) -> tuple[str, ...]:
    return (f"custom objects from {request.custom_objects.name}",) if request.custom_objects else ()


def _input_specs(model: Any, request: SourceRequest) -> tuple[InputSpec, ...]:
    tensors = getattr(model, "inputs", None)
    if not tensors and not request.input_shapes:
        raise SourceError(
            f"{request.path}: the model does not say what it takes; "
            f"give every input's shape, such as --input-shape 1,224,224,3"
        )
    if not tensors:
        return tuple(
            _spec(said.name or f"input_{index}", said.shape, said.dtype or "float32")
            for index, said in enumerate(request.input_shapes)
        )
    names = [str(tensor.name).split(":")[0] for tensor in tensors]
    return tuple(
        _spec(
            name,
            fixed_shape(name, tuple(tensor.shape), said_shape(request, index, name)),
            tf.as_dtype(tensor.dtype).name,
        )
        for index, (name, tensor) in enumerate(zip(names, tensors, strict=True))
    )


def _spec(name: str, shape: tuple[int, ...], dtype: str) -> InputSpec:
    return InputSpec(name, shape, dtype, layout="NHWC" if len(shape) == 4 else None)


def load_saved_model(request: SourceRequest) -> Live:
    """Load a SavedModel's serving signature."""
    with keras_errors(request.path):
        loaded = tf.saved_model.load(str(request.path))
        signatures = dict(loaded.signatures)
    if "serving_default" not in signatures and len(signatures) != 1:
        raise SourceError(
            f"{request.path}: the SavedModel has no serving_default signature (it has: {list(signatures)})"
        )
    signature = signatures.get("serving_default") or next(iter(signatures.values()))
    wanted = signature.structured_input_signature[1]
    inputs = tuple(
        _spec(name, fixed_shape(name, tuple(spec.shape), said_shape(request, index, name)), spec.dtype.name)
        for index, (name, spec) in enumerate(sorted(wanted.items()))
    )
    outputs = sorted(signature.structured_outputs)

    def serve(*tensors: Any) -> list[Any]:
        result = signature(**{spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)})
        return [result[name] for name in outputs]

    # the loaded object owns the variables: it must live as long as the handle
    return _live(serve, [*signature.variables, loaded], inputs, outputs, request, (), ())


def _live(
    serve: Callable[..., list[Any]],
    variables: list[Any],
    inputs: tuple[InputSpec, ...],
    names: list[str],
    request: SourceRequest,
    notes: tuple[str, ...],
    code: tuple[Path, ...],
) -> Live:
    compiled = tf.function(serve)

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in compiled(*[tf.constant(array) for array in batch])]

    with keras_errors(request.path):
        results = run([np.zeros(spec.shape, spec.dtype) for spec in inputs])
    if len(names) != len(results) or len(set(names)) != len(names):
        names = ["output"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
    outputs = tuple(
        OutputSpec(name, tuple(result.shape), result.dtype.name) for name, result in zip(names, results, strict=True)
    )
    return Live(
        framework="keras",
        inputs=inputs,
        outputs=outputs,
        run=in_batches(run),
        handle=KerasHandle(serve, variables),
        notes=notes,
        code=code,
    )
