"""Short labels of recipes for progress lines and reports."""

from __future__ import annotations

from edgekit_converters.recipe.recipe import Recipe


def recipe_label(recipe: Recipe) -> str:
    """Return the scheme and what differs from its defaults, such as ``int8-static mse equalize, 3 layers float32``."""
    words = [recipe.scheme]
    if recipe.statistics != Recipe.statistics:
        words.append(recipe.statistics)
    if recipe.corrections:
        words.append("+".join(recipe.corrections))
    rules = [f"{len(rule.layers)} layers {rule.scheme}" for rule in recipe.rules if rule.layers]
    return ", ".join([" ".join(words), *rules])
