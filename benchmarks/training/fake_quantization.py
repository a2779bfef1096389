"""How close fake quantization comes to the artifact: edgekit's beside PT2E, NNCF and TF-MOT, in int8-static.

Every side sees the same 200 calibration images, takes the extremes of all activations as their ranges where the library
can, and compares its imitation with what LiteRT and OpenVINO compute after conversion, in dB. ResNet-20 is a PyTorch
module, ResNet-8 a tf_keras model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.commands import MODELS
from benchmarks.models.resnet20 import MEAN, STD

COUNT = 200
RESNET8 = "mlperf_tiny/image_classification/pretrainedResnet.h5"
RESNET20 = "pytorch_resnet20/resnet20-12fca82f.th"
ANY_ERROR = (Exception,)  # what a library raises where it does not support the model

Show = Callable[[str, np.ndarray, np.ndarray], None]


def main() -> None:
    """Print the figures of each side, each measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=SIDES, help="one side only")
    beside = Path(__file__).parents[3] / "shared/data"
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", beside), type=Path, help="real data")
    options = parser.parse_args()
    data, side = options.data.resolve(), options.side
    if side is None:
        for name in SIDES:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.training.fake_quantization", name, "--data", data], check=False
            )
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        SIDES[side](data, Path(work), lambda what, one, other: print(f"{side}: {what} {_snr_db(one, other):.1f} dB"))


def _snr_db(signal: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(signal**2) / np.sum((signal - other) ** 2)))


def _images(data: Path, *, normalized: bool) -> np.ndarray:
    """Return (200, 32, 32, 3) float32, as ResNet-20 or as ResNet-8 takes them."""
    with np.load(data / "cifar10/calibration.npz") as kept:
        images = kept["x"][:COUNT].astype(np.float32)
    return np.asarray((images / 255 - MEAN) / STD, np.float32) if normalized else images


def _edgekit(network: str) -> Callable[[Path, Path, Show], None]:
    def measure(data: Path, work: Path, show: Show) -> None:
        from edgekit_converters import data as dataset
        from edgekit_converters.artifact.open import OpenArtifact
        from edgekit_converters.load import load, open_source
        from edgekit_converters.lower import lower
        from edgekit_converters.quantize import quantize
        from edgekit_converters.recipe.recipe import Recipe
        from edgekit_converters.records import InputShape, LowerRequest, QuantizeRequest, SourceRequest
        from edgekit_converters.train import Settings
        from edgekit_converters.train.student import open_student

        request = SourceRequest("keras", data / RESNET8)
        if network == "ResNet-20":
            shape = (InputShape((1, 3, 32, 32)),)
            request = SourceRequest("python", MODELS / "resnet20.py", "resnet20", data / RESNET20, shape)
        source, images = load(request, work), _images(data, normalized=network == "ResNet-20")
        np.savez(work / "samples.npz", **{source.inputs[0].name: images})
        (work / "data").mkdir()
        prepared = dataset.prepare(dataset.DataRequest(str(work / "samples.npz"), source.inputs), work / "data")
        whole = open_source(source.request).run([images])[0]
        student = open_student(source, Settings(quantize_aware="int8-static"))
        imitation = student.run([images])[0]
        student.close()
        for engine in ("litert", "openvino"):
            (work / engine).mkdir()
            lowered = lower(LowerRequest(source, engine), work / engine)
            made = quantize(QuantizeRequest(lowered, Recipe("int8-static"), source.inputs, prepared), work / engine)
            opened = OpenArtifact(made)
            computed = np.concatenate([opened.run([images[place : place + 1]])[0] for place in range(COUNT)])
            opened.close()
            show(f"{network}, {engine}: imitation", computed, imitation)
            show(f"{network}, {engine}: float model", whole, computed)

    return measure


def _resnet20(data: Path) -> tuple[Any, Any, np.ndarray]:
    """Return the module, its images as tensors (200, 3, 32, 32), and its outputs."""
    import torch

    from benchmarks.models.resnet20 import resnet20

    module = resnet20()
    weights = torch.load(data / RESNET20, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict({name.removeprefix("module."): values for name, values in weights.items()})
    images = torch.from_numpy(np.moveaxis(_images(data, normalized=True), -1, 1).copy())
    return module.eval(), images, _outputs(module, images)


def _outputs(module: Any, images: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.concatenate([module(images[place : place + 1]).numpy() for place in range(COUNT)])


def _litert(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a file whose input and output are float32 or int8, and return its outputs in floating point."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    if taken["dtype"] == np.int8:
        scale, zero = taken["quantization"]
        images = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
    found = []
    for place in range(COUNT):
        interpreter.set_tensor(taken["index"], images[place : place + 1])
        interpreter.invoke()
        found.append(interpreter.get_tensor(given["index"]))
    computed = np.concatenate(found)
    scale, zero = given["quantization"]
    return (computed.astype(np.float32) - zero) * scale if given["dtype"] == np.int8 else computed


def _openvino(model: Any, images: np.ndarray) -> np.ndarray:
    import openvino

    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(images[place : place + 1])[0] for place in range(COUNT)])


def _pt2e(data: Path, work: Path, show: Show) -> None:
    import litert_torch
    import openvino
    import torch
    from litert_torch.quantize import pt2e_quantizer, pt2e_quantizer_utils
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e import disable_observer, move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    module, images, whole = _resnet20(data)

    def prepared(example: Any) -> tuple[Any, Any]:
        config = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
        quantizer = pt2e_quantizer.PT2EQuantizer().set_global(config)
        return prepare_qat_pt2e(torch.export.export(module, (example,)).module(), quantizer), quantizer

    try:
        prepared(images[:1])
    except ANY_ERROR as error:
        print(f"PT2E: as installed: {type(error).__name__}: {error}")

    class Pattern(torch.nn.Module):  # what torch.export takes in place of a function
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.function = function

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.function(*args, **kwargs)

    original = pt2e_quantizer_utils._get_aten_graph_module_for_pattern
    pt2e_quantizer_utils._get_aten_graph_module_for_pattern = lambda pattern, *args: original(Pattern(pattern), *args)
    (all_at_once, _), (trained, quantizer) = prepared(images), prepared(images[:1])
    move_exported_model_to_eval(all_at_once)
    move_exported_model_to_eval(trained)
    with torch.no_grad():
        all_at_once(images)  # one batch, so that the moving averages are the extremes of all images
        trained(images[:1])
    trained.load_state_dict(all_at_once.state_dict())
    trained.apply(disable_observer)
    imitation = _outputs(trained, images)
    made = convert_pt2e(trained, fold_quantize=False)
    edge = litert_torch.convert(made, (images[:1],), quant_config=QuantConfig(pt2e_quantizer=quantizer))
    edge.export(str(work / "model.tflite"))
    computed = _litert(work / "model.tflite", images.numpy())
    show("ResNet-20, litert: imitation", computed, imitation)
    show("ResNet-20, litert: float model", whole, computed)
    model = openvino.convert_model(torch.export.export(made, (images[:1],)))
    show("ResNet-20, openvino: imitation", _openvino(model, images.numpy()), imitation)


def _nncf(data: Path, _work: Path, show: Show) -> None:
    import litert_torch
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    module, images, whole = _resnet20(data)
    ranges = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
    samples = nncf.Dataset([images[place : place + 1] for place in range(COUNT)])
    preset = nncf.QuantizationPreset.MIXED
    trained = nncf.quantize(module, samples, preset=preset, subset_size=COUNT, advanced_parameters=ranges).eval()
    model = openvino.convert_model(trained, example_input=images[:1])
    computed = _openvino(model, images.numpy())
    show("ResNet-20, openvino: imitation", computed, _outputs(trained, images))
    show("ResNet-20, openvino: float model", whole, computed)
    try:
        litert_torch.convert(trained, (images[:1],))
    except ANY_ERROR as error:
        print(f"NNCF: to TFLite: {type(error).__name__}")


def _tf_mot(data: Path, work: Path, show: Show) -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import keras
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    import tf_keras

    images = _images(data, normalized=False)
    float_model = tf_keras.models.load_model(data / RESNET8, compile=False)
    whole = float_model.predict(images, batch_size=1, verbose=0)
    trained = tfmot.quantization.keras.quantize_model(float_model)
    for place in range(COUNT):
        trained(images[place : place + 1], training=True)  # its ranges are moving averages
    converter = tf.lite.TFLiteConverter.from_keras_model(trained)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    (work / "model.tflite").write_bytes(converter.convert())
    computed = _litert(work / "model.tflite", images)
    show("ResNet-8, litert: imitation", computed, trained.predict(images, batch_size=1, verbose=0))
    show("ResNet-8, litert: float model", whole, computed)
    try:
        tfmot.quantization.keras.quantize_model(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
    except ANY_ERROR as error:
        print(f"TF-MOT: Keras 3: {type(error).__name__}: {error}")


SIDES: dict[str, Callable[[Path, Path, Show], None]] = {
    "edgekit-torch": _edgekit("ResNet-20"),
    "edgekit-keras": _edgekit("ResNet-8"),
    "PT2E": _pt2e,
    "NNCF": _nncf,
    "TF-MOT": _tf_mot,
}

if __name__ == "__main__":
    main()
