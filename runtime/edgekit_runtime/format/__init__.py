"""The bundle format: parse and validate untrusted archives, manifests and arrays."""
