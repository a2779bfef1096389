"""Open a bundle: joins format and trust, and gives out verified files."""
