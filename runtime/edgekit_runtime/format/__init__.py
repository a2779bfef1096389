"""What a bundle's bytes may be: pure parsing of untrusted input."""
