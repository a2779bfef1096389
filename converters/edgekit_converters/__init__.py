"""The stages between a trained model and its artifacts, one folder a stage, each run in a child process."""
