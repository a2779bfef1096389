"""The version of edgekit-runtime."""

__version__ = "0.1.0"
