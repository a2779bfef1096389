"""Write a MobileNetV2 with random weights as a Keras file."""

import sys

from benchmarks.models.mobilenet_v2 import mobilenet_v2

mobilenet_v2().save(sys.argv[1])
