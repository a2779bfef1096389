"""The machine that runs stages: worker processes, cache, toolchains. It knows no stage by name."""
