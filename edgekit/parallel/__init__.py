"""Run work side by side: on threads or on a Ray cluster."""
