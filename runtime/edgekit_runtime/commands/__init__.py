"""The board's command line; imported by ``__main__`` only."""
