"""The embedded default: a small trained digits model and its data. `make_digits.py` made them."""
