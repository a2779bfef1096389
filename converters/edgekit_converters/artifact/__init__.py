"""An artifact, and how it is opened."""
