"""Read and write TFLite and OpenVINO IR files."""
