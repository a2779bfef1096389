"""Pruning, as ``edgekit prune`` and ``edgekit convert`` ask for it.

Read in this order: ``asked.py`` (what may be asked), ``slim.py`` (rounds of cutting and recovering), ``reach.py``
(cutting until a goal is met, measured), ``compare.py`` (what it bought), ``command.py`` (the command of its own).
"""
