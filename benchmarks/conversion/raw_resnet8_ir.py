"""Convert ResNet-8 to int8 OpenVINO IR with a hand-written script: the baseline of `convert_time.py`.

Loads MLPerf Tiny's Keras model, converts it, calibrates on all 500 calibration images, quantizes, and evaluates the
source and the artifact on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import tf_keras


def main() -> None:
    """Print both accuracies and the artifact's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", "../shared/data"), type=Path)
    parser.add_argument("--output", default="build/raw/resnet8_int8.xml", type=Path)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    model = tf_keras.models.load_model(
        args.data / "mlperf_tiny/image_classification/pretrainedResnet.h5", compile=False
    )
    test = np.load(args.data / "cifar10/test.npz")
    x, y = test["x"].astype(np.float32), test["y"]  # (10000, 32, 32, 3), (10000,)
    source = np.mean(model.predict(x, batch_size=256, verbose=0).argmax(axis=1) == y)
    calibration = np.load(args.data / "cifar10/calibration.npz")["x"].astype(np.float32)  # (500, 32, 32, 3)
    float_model = ov.convert_model(model, input=[(1, 32, 32, 3)])
    int8_model = nncf.quantize(
        float_model,
        nncf.Dataset([image[np.newaxis] for image in calibration]),
        subset_size=len(calibration),
    )
    ov.save_model(int8_model, args.output)
    print(f"source accuracy {source:.4f}")
    print(f"int8 accuracy   {evaluate(args.output, x, y):.4f}")
    print(f"size_bytes      {sum(args.output.with_suffix(end).stat().st_size for end in ('.xml', '.bin'))}")


def evaluate(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy of an artifact, image by image on one thread, as on a board."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    hits = 0
    for image, label in zip(x, y, strict=True):
        hits += int(request.infer([image[np.newaxis]])[0].argmax() == label)
    return hits / len(y)


if __name__ == "__main__":
    main()
