"""TFLite files as source models."""

from __future__ import annotations

from edgekit_converters.frameworks import Framework, Loader

FRAMEWORK = Framework(
    name="tflite",
    loaders={"tflite": Loader("edgekit_converters.load.tflite_file:load_file", "litert", (".tflite",))},
    tracer="edgekit_converters.trace.tflite_tensors:steps",
)
