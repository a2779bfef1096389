"""Generations of a bundle on a board: install, trial, rollback, removal."""
