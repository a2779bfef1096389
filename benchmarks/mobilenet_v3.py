"""What int8 costs a MobileNetV3-small whose channels lie 1000:1 apart: plain, and with its channels equalized.

Trained on CIFAR-10 the first time, in a few minutes, and kept in `build/bench`. Calibrated on the 500 calibration
images and evaluated on all 10,000 test images. The plain toolchains do as their manuals say: TFLiteConverter with a
representative data set, and `nncf.quantize` with its defaults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures
import keras
import mobilenet_v3_model
import nncf
import numpy as np
import openvino as ov
import real_data
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from commands import CIFAR10, convert

MODEL = Path(__file__).parents[1] / "build/bench/mobilenet_v3.keras"
LEAST_LOSS_POINTS = 5.0  # of the plain toolchains, so that there is something to win back
MOST_DROP_POINTS = 1.0
RECIPE = 'scheme = "int8-static"\nstatistics = "mse"\ncorrections = ["equalize"]\n'

Call = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print the accuracy of the float model and of both plain int8 models."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / "cifar10" / name for name in ("train_jpeg.npz", "calibration.npz", "test.npz")))
    model = keras.models.load_model(mobilenet_v3_model.trained(data, MODEL))
    calibration = np.load(data / "cifar10/calibration.npz")["x"].astype(np.float32)  # (500, 32, 32, 3)
    test = np.load(data / "cifar10/test.npz")
    x, y = test["x"].astype(np.float32), test["y"]  # (10000, 32, 32, 3), (10000,)
    accuracy = float(np.mean(model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y))
    figures.show("MobileNetV3, float32 Keras", f"{100 * accuracy:.2f} % of {len(y)}")
    for name, make in (("TFLiteConverter", plain_tflite), ("NNCF", plain_ir)):
        call = make(model, calibration)
        found = float(np.mean([call(image[np.newaxis]).argmax() == label for image, label in zip(x, y, strict=True)]))
        lost = 100 * (accuracy - found)
        figures.show(
            f"MobileNetV3, plain int8 of {name}",
            f"{100 * found:.2f} %, drop {lost:+.2f}",
            f">= {LEAST_LOSS_POINTS:g} points",
            holds=lost >= LEAST_LOSS_POINTS,
        )
    with tempfile.TemporaryDirectory() as folder:
        _show_equalized(data, Path(folder))


def _show_equalized(data: Path, work: Path) -> None:
    recipe = work / "recipe.toml"
    recipe.write_text(RECIPE)
    made = convert(data, work, str(MODEL.resolve()), *CIFAR10, "--recipe", str(recipe))
    for variant in made.report["variants"]:
        lost = 100 * variant["drop"]
        figures.show(
            f"MobileNetV3, {variant['name']}, equalized",
            f"{100 * variant['accuracy']:.2f} %, drop {lost:+.2f}",
            f"<= {MOST_DROP_POINTS:g} points",
            holds=lost <= MOST_DROP_POINTS,
        )


def plain_tflite(model: Any, calibration: np.ndarray) -> Call:
    """Quantize all of the model to int8 with TensorFlow's converter, its inputs and outputs left in float."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    (entrance,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entrance["index"], image)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(exit_["index"]))

    return call


def plain_ir(model: Any, calibration: np.ndarray) -> Call:
    """Quantize the model with NNCF's defaults."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        float_model = ov.convert_model(folder, input=[(1, 32, 32, 3)])
    int8_model = nncf.quantize(float_model, nncf.Dataset([image[np.newaxis] for image in calibration]))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.compile_model(int8_model, "CPU", settings).create_infer_request()
    return lambda image: np.asarray(request.infer([image])[0])


if __name__ == "__main__":
    main()
