"""Quantize to int8 with the toolchains' defaults, as their manuals describe: the baseline of `--quantize auto`.

TFLite: TFLiteConverter, full integer with a representative data set; for a PyTorch model, litert-torch and AI Edge
Quantizer's static recipe. IR: `nncf.quantize` with its defaults. As a script it prints, for one of :data:`SUBJECTS`,
the metric of both on the evaluation data, as JSON by engine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.models import audio_data

ONE_THREAD = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
TEST_IMAGES = 2000  # test images that are evaluated, the first


@dataclass(frozen=True)
class Subject:
    """A model in both formats, and its evaluation data."""

    tflite: bytes  # int8
    ir: Any  # int8
    x: np.ndarray  # (n, *input)
    score: Callable[[np.ndarray], float]  # of outputs, (n, *output)


def write_first_images(data: Path, path: Path) -> Path:
    """Write the first test images and their classes as a file for `edgekit convert`."""
    test = np.load(data / "cifar10/test.npz")
    np.savez(path, x=test["x"][:TEST_IMAGES], y=test["y"][:TEST_IMAGES])
    return path


def tflite_of_saved_model(folder: Path, calibration: np.ndarray) -> bytes:
    """Quantize a SavedModel to int8 with TensorFlow's converter; inputs and outputs stay float."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converted: bytes = converter.convert()
    return converted


def ir_of(model: Any, calibration: np.ndarray, example: Any = None) -> Any:
    """Quantize a SavedModel path or a torch module with NNCF's defaults."""
    import nncf
    import openvino as ov

    float_model = ov.convert_model(model, input=[(1, *calibration.shape[1:])], example_input=example)
    return nncf.quantize(float_model, nncf.Dataset([sample[np.newaxis] for sample in calibration]))


def run_tflite(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs for all samples, one sample at a time on one thread."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (entrance,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for sample in x:
        interpreter.set_tensor(entrance["index"], _quantized_input(sample[np.newaxis], entrance))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(exit_["index"])[0])
    found, (scale, zero) = np.stack(outputs), exit_["quantization"]
    return (found.astype(np.float32) - zero) * np.float32(scale) if scale else found


def _quantized_input(x: np.ndarray, entrance: Any) -> np.ndarray:
    """Return the sample in the model's dtype: AI Edge Quantizer quantizes inputs and outputs, too."""
    scale, zero = entrance["quantization"]
    return np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8) if scale else x


def run_ir(model: Any, x: np.ndarray) -> np.ndarray:
    """Return the outputs for all samples in OpenVINO, one sample at a time."""
    import openvino as ov

    request = ov.compile_model(model, "CPU", ONE_THREAD).create_infer_request()
    return np.stack([np.array(request.infer([sample[np.newaxis]])[0][0]) for sample in x])


def _resnet8(data: Path) -> Subject:
    calibration, x, labels = _cifar10(data)
    h5 = data / "mlperf_tiny/image_classification/pretrainedResnet.h5"
    return _of_keras(h5, calibration, x, _accuracy(labels))


def _resnet20(data: Path) -> Subject:
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    from benchmarks.models import resnet20

    module = resnet20.resnet20()
    stored = torch.load(data / "pytorch_resnet20/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    module.load_state_dict({key.removeprefix("module."): value for key, value in stored["state_dict"].items()})
    calibration, x, labels = _cifar10(data)
    calibration, x = (
        np.ascontiguousarray(((images / 255 - resnet20.MEAN) / resnet20.STD).transpose(0, 3, 1, 2), np.float32)
        for images in (calibration, x)
    )  # (n, 3, 32, 32)
    example = (torch.from_numpy(x[:1]),)
    with tempfile.TemporaryDirectory() as folder:
        lowered = Path(folder) / "model.tflite"
        litert_torch.convert(module, example).export(str(lowered))
        (name,) = Interpreter(str(lowered)).get_signature_runner().get_input_details()
        worker = quantizer.Quantizer(str(lowered))
        worker.load_quantization_recipe(recipe.static_wi8_ai8())
        statistics = worker.calibrate({"serving_default": [{name: sample[np.newaxis]} for sample in calibration]})
        tflite = bytes(worker.quantize(statistics).quantized_model)
    return Subject(tflite, ir_of(module, calibration, example), x, _accuracy(labels))


def _ad01(data: Path) -> Subject:
    calibration = np.stack(list(audio_data.speech_calibration()))
    samples, labels = map(np.stack, zip(*audio_data.whistle_test(), strict=True))
    h5 = data / "mlperf_tiny/anomaly_detection/ad01.h5"
    return _of_keras(h5, calibration, samples, lambda outputs: audio_data.whistle_area({"": outputs}, labels))


def _kws(data: Path) -> Subject:
    samples, labels = map(np.stack, zip(*audio_data.keyword_test(), strict=True))
    folder = data / "mlperf_tiny/keyword_spotting/kws_ref_model"
    return _of_saved_model(folder, np.stack(audio_data.keyword_calibration()), samples, _accuracy(labels))


SUBJECTS = {"ResNet-8": _resnet8, "ResNet-20": _resnet20, "ad01": _ad01, "DS-CNN": _kws}


def _of_keras(h5: Path, *rest: Any) -> Subject:
    import tensorflow as tf
    import tf_keras

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf_keras.models.load_model(h5, compile=False), folder)
        return _of_saved_model(Path(folder), *rest)


def _of_saved_model(
    folder: Path, calibration: np.ndarray, x: np.ndarray, score: Callable[[np.ndarray], float]
) -> Subject:
    return Subject(tflite_of_saved_model(folder, calibration), ir_of(str(folder), calibration), x, score)


def _cifar10(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return calibration images (500, 32, 32, 3), test images (2000, 32, 32, 3) and their classes (2000,)."""
    test = np.load(data / "cifar10/test.npz")
    calibration = np.load(data / "cifar10/calibration.npz")["x"].astype(np.float32)
    return calibration, test["x"][:TEST_IMAGES].astype(np.float32), test["y"][:TEST_IMAGES]


def _accuracy(labels: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda outputs: float(np.mean(outputs.reshape(len(labels), -1).argmax(axis=1) == labels))


def main() -> None:
    """Print the metric of both int8 models."""
    name, data = sys.argv[1], Path(sys.argv[2])
    os.environ["EDGEKIT_DATA"] = str(data)  # audio_data looks there
    subject = SUBJECTS[name](data)
    runs = {"litert": run_tflite(subject.tflite, subject.x), "openvino": run_ir(subject.ir, subject.x)}
    print(json.dumps({engine: subject.score(outputs) for engine, outputs in runs.items()}))


if __name__ == "__main__":
    main()
