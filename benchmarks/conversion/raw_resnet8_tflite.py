"""Convert ResNet-8 to int8 TFLite with a hand-written script: the baseline of `convert_time.py`.

Loads MLPerf Tiny's Keras model, converts it, calibrates on all 500 calibration images, quantizes, and evaluates the
source and the artifact on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main() -> None:
    """Print both accuracies and the artifact's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", "../shared/data"), type=Path)
    parser.add_argument("--output", default="build/raw/resnet8_int8.tflite", type=Path)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    model = tf_keras.models.load_model(
        args.data / "mlperf_tiny/image_classification/pretrainedResnet.h5", compile=False
    )
    test = np.load(args.data / "cifar10/test.npz")
    x, y = test["x"].astype(np.float32), test["y"]  # (10000, 32, 32, 3), (10000,)
    source = np.mean(model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y)
    calibration = np.load(args.data / "cifar10/calibration.npz")["x"].astype(np.float32)  # (500, 32, 32, 3)
    quantize(convert(model), calibration, args.output)
    print(f"source accuracy {source:.4f}")
    print(f"int8 accuracy   {evaluate(args.output, x, y):.4f}")
    print(f"size_bytes      {args.output.stat().st_size}")


def convert(model: Any) -> bytes:
    """Return the float model as TFLite with batch 1."""
    serve = tf.function(model).get_concrete_function(tf.TensorSpec((1, 32, 32, 3), tf.float32))
    converted: bytes = tf.lite.TFLiteConverter.from_concrete_functions([serve], model).convert()
    return converted


def quantize(model: bytes, images: np.ndarray, output: Path) -> None:
    """Quantize weights and activations to int8, calibrated on all images."""
    (name,) = Interpreter(model_content=model).get_signature_runner().get_input_details()
    worker = quantizer.Quantizer(model)
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    statistics = worker.calibrate({"serving_default": [{name: image[np.newaxis]} for image in images]})
    worker.quantize(statistics).export_model(str(output), overwrite=True)


def evaluate(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy of an int8 artifact, image by image on one thread, as on a board."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entrance,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    if entrance["dtype"] == np.int8:
        scale, zero_point = entrance["quantization"]
        x = np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)
    hits = 0
    for image, label in zip(x, y, strict=True):
        interpreter.set_tensor(entrance["index"], image[np.newaxis])
        interpreter.invoke()
        hits += int(interpreter.get_tensor(exit_["index"]).argmax() == label)
    return hits / len(y)


if __name__ == "__main__":
    main()
