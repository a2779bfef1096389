"""Load Keras models of both generations, and SavedModel folders."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edgekit_converters.execution.import_filter import without
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.user_code import import_file
from edgekit_converters.load import fixed_shape, given_shapes, in_batches, refuse_repeated
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

with without("jax", "sklearn"):  # TFLite's converter looks for one, Keras for the other: a third of all this imports
    import tensorflow as tf

CUSTOM_LAYER = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown (?:layer|\w+ function|object):?) '?([\w>.]+)'?"
)
LAMBDA = '"class_name": "Lambda"'
CHANGED = '"hard_sigmoid"'  # clip(x / 5 + 1/2) in Keras 2, clip(x / 6 + 1/2) in Keras 3
CHANGED_SINCE = "hard_sigmoid differs between Keras 3 and Keras 2, which wrote this file"
CANNOT_RUN = "the model cannot run on inputs of its shapes, or of the given ones"


@dataclass(frozen=True)
class KerasHandle:
    """The computation of a model and its variables, for lowering."""

    serve: Callable[..., list[Any]]  # tensors in, a flat list of tensors out
    variables: list[Any]
    layers: tuple[str, ...] = ()  # their names, where the model tells them
    model: Any = None  # the Keras model itself; none behind a SavedModel's signature


@contextlib.contextmanager
def keras_errors(request: SourceRequest, failed: str = "not a model Keras can load") -> Iterator[None]:
    """Turn errors of Keras and TensorFlow while loading into a SourceError that says what to do."""
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
            raise SourceError(_unknown_object(request, custom.group(1))) from error
        if "lambda" in message.lower() and "safe" in message.lower():
            raise SourceError(_lambda_refusal(request)) from error
        raise SourceError(f"{request.path}: {failed} ({short_message(error)})") from error


def _lambda_refusal(request: SourceRequest) -> str:
    return (
        f"{request.path}: the model holds a Lambda layer or function, which is code that runs when it is loaded; "
        f"if you trust the file, add --allow-pickle"
    )


def _unknown_object(request: SourceRequest, name: str) -> str:
    unknown = f"{request.path}: the model has a custom layer or function, {name!r}, that "
    if request.custom_objects:
        return f"{unknown}{request.custom_objects} does not define"
    return (
        f"{unknown}Keras does not know.\nPass the file that defines it, --custom-objects FILE.py, "
        f"or a function that returns the built model: FILE.py:function"
    )


def load_file(request: SourceRequest) -> LoadedModel:
    """Load ``.keras`` or ``.h5``; with tf_keras if Keras 3 refuses it or computes something else."""
    with keras_errors(request):
        model, notes = _load_either(request)
    return from_model(model, request, notes=notes)


def _load_either(request: SourceRequest) -> tuple[Any, tuple[str, ...]]:
    import keras

    architecture, version = _described(request.path)
    if architecture == "{}":
        raise SourceError(
            f"{request.path}: holds weights, not a model; give the function that builds the model, too: "
            f"edgekit convert FILE.py:function --weights {request.path.name}"
        )
    if LAMBDA in architecture and not request.allow_pickle:  # tf_keras would run an .h5 file's without asking
        raise SourceError(_lambda_refusal(request))
    options = {"compile": False, "custom_objects": _custom_objects(request), "safe_mode": not request.allow_pickle}
    if CHANGED in architecture and not version.startswith("3"):
        import tf_keras

        return tf_keras.models.load_model(request.path, **options), ("loaded with tf_keras: " + CHANGED_SINCE,)
    try:
        return keras.models.load_model(request.path, **options), ()
    except (TypeError, ValueError, AttributeError, KeyError, NotImplementedError) as refusal:
        if version.startswith("3"):
            raise
        import tf_keras

        try:
            model = tf_keras.models.load_model(request.path, **options)
        except TypeError as error:
            raise refusal from error
        return model, ("loaded with tf_keras: Keras 3 refuses this Keras-2 file",)


def _described(path: Path) -> tuple[str, str]:
    """Return the architecture of a file, as JSON in the form of ``json.dumps``, and the version that wrote it."""
    if path.suffix.lower() == ".keras":
        with zipfile.ZipFile(path) as archive:
            architecture = archive.read("config.json")
            version = json.loads(archive.read("metadata.json")).get("keras_version", "")
    else:
        with h5py.File(path) as file:
            architecture = file.attrs.get("model_config", "{}")
            version = file.attrs.get("keras_version", "")
    return json.dumps(json.loads(architecture)), str(version)


def _custom_objects(request: SourceRequest) -> dict[str, Any] | None:
    if request.custom_objects is None:
        return None
    module = import_file(request.custom_objects)
    return {name: item for name, item in vars(module).items() if callable(item) and not name.startswith("_")}


def from_model(
    model: Any, request: SourceRequest, *, notes: tuple[str, ...] = (), code: tuple[Path, ...] = ()
) -> LoadedModel:
    """Wrap a Keras model of either generation.

    Raises:
        SourceError: its inputs are unknown: it was never built, and no ``--input-shape`` was given.
    """
    inputs = _input_specs(model, request)

    structure = getattr(model, "input", None)  # of a functional model: one tensor, a list, or a dictionary by name

    def call(tensors: Sequence[Any]) -> Any:
        if structure is None:
            taken = list(tensors) if len(tensors) > 1 else tensors[0]
        else:
            taken = tf.nest.pack_sequence_as(structure, tensors)
        return model(taken, training=False)

    with keras_errors(request, CANNOT_RUN):
        result = call([tf.zeros(spec.shape, spec.dtype) for spec in inputs])  # builds what was not
    if request.weights:
        with keras_errors(request, f"the weights in {request.weights} do not fit it"):
            model.load_weights(request.weights)
    # flatten gives a dictionary's values in the order of its sorted keys
    names = sorted(result) if isinstance(result, dict) else list(getattr(model, "output_names", None) or [])
    # Keras 3 wraps TensorFlow's variables; only those themselves are frozen into constants by the converters
    variables = [variable if isinstance(variable, tf.Variable) else variable.value for variable in model.variables]
    if request.custom_objects:
        notes += (f"custom objects from {request.custom_objects.name}",)
    layers = tuple(str(layer.name) for layer in model.layers)
    handle = KerasHandle(lambda *tensors: list(tf.nest.flatten(call(tensors))), variables, layers, model)
    return _loaded(handle, inputs, names, request, notes, code)


def _input_specs(model: Any, request: SourceRequest) -> tuple[InputSpec, ...]:
    tensors = getattr(model, "inputs", None)
    if not tensors and not request.input_shapes:
        raise SourceError(
            f"{request.path}: the model does not describe its inputs; "
            f"give every input's shape, such as --input-shape 1,224,224,3"
        )
    if not tensors:
        refuse_repeated(request)
        return tuple(
            _spec(input_shape.name or f"input_{index}", input_shape.shape, input_shape.dtype or "float32")
            for index, input_shape in enumerate(request.input_shapes)
        )
    names = [str(tensor.name).split(":")[0] for tensor in tensors]
    return tuple(
        _spec(
            name,
            fixed_shape(name, tuple(tensor.shape), input_shape),
            tf.as_dtype(tensor.dtype).name,
        )
        for name, tensor, input_shape in zip(names, tensors, given_shapes(request, names), strict=True)
    )


def _spec(name: str, shape: tuple[int, ...], dtype: str) -> InputSpec:
    return InputSpec(name, shape, dtype, layout="NHWC" if len(shape) == 4 else None)


def save(live: LoadedModel, folder: Path) -> Path:
    """Save a model into ``folder`` for its own generation: ``.keras`` for Keras 3, ``.h5`` for tf_keras.

    Raises:
        SourceError: it is a SavedModel, which has no layers, or Keras cannot save it.
    """
    model = live.handle.model
    if model is None:
        raise SourceError(
            "a SavedModel cannot be saved as a Keras file: give the .keras or .h5 file, or FILE.py:function"
        )
    return save_model(model, folder)


def save_model(model: Any, folder: Path) -> Path:
    """Save a Keras model of either generation.

    Raises:
        SourceError: Keras cannot save it.
    """
    old = any(kind.__module__.startswith("tf_keras.") for kind in type(model).__mro__)
    path = folder / ("model.h5" if old else "model.keras")
    try:
        model.save(path)
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{model.name}: Keras cannot save this model ({short_message(error)})") from error
    return path


def load_saved_model(request: SourceRequest) -> LoadedModel:
    """Load the serving signature of a SavedModel."""
    with keras_errors(request):
        loaded = tf.saved_model.load(str(request.path))
        signatures = dict(loaded.signatures)
    if "serving_default" not in signatures and len(signatures) != 1:
        raise SourceError(
            f"{request.path}: the SavedModel has no serving_default signature (it has: {list(signatures)})"
        )
    signature = signatures.get("serving_default") or next(iter(signatures.values()))
    wanted = dict(sorted(signature.structured_input_signature[1].items()))
    inputs = tuple(
        _spec(name, fixed_shape(name, tuple(spec.shape), input_shape), spec.dtype.name)
        for (name, spec), input_shape in zip(wanted.items(), given_shapes(request, list(wanted)), strict=True)
    )
    outputs = sorted(signature.structured_outputs)

    def serve(*tensors: Any) -> list[Any]:
        result = signature(**{spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)})
        return [result[name] for name in outputs]

    # the loaded object owns the variables: it must live as long as the handle
    return _loaded(KerasHandle(serve, [*signature.variables, loaded]), inputs, outputs, request)


def _loaded(
    handle: KerasHandle,
    inputs: tuple[InputSpec, ...],
    names: list[str],
    request: SourceRequest,
    notes: tuple[str, ...] = (),
    code: tuple[Path, ...] = (),
) -> LoadedModel:
    compiled = tf.function(handle.serve)

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        return [tensor.numpy() for tensor in compiled(*[tf.constant(array) for array in batch])]

    with keras_errors(request, CANNOT_RUN):
        results = run([np.zeros(spec.shape, spec.dtype) for spec in inputs])
    if len(names) != len(results) or len(set(names)) != len(names):
        names = ["output"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
    outputs = tuple(
        OutputSpec(name, tuple(result.shape), result.dtype.name) for name, result in zip(names, results, strict=True)
    )
    return LoadedModel(
        framework="keras",
        inputs=inputs,
        outputs=outputs,
        run=in_batches(run),
        handle=handle,
        notes=notes,
        code=code,
    )
