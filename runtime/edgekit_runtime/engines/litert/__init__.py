"""LiteRT: runs .tflite files."""
