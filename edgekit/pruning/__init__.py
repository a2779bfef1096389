"""Pruning before a conversion, and as ``edgekit prune``.

Read ``options.py`` (options to plan), ``prune.py`` (rounds of pruning and fine-tuning), ``search.py`` (prune until the
measured goal is met), ``comparison.py`` (the effect), then ``command.py`` (``edgekit prune``).
"""
