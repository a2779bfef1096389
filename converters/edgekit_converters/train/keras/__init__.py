"""Train Keras models."""
