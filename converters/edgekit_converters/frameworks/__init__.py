"""What several stages must know of Keras and PyTorch."""
