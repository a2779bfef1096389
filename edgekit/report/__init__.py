"""Reports as JSON and HTML."""
