"""Reading and checking of params.yaml, and recipes, which rewrite it."""

from latentworks.params.reading import PARAMS, Sections, load, parse, read

__all__ = ["PARAMS", "Sections", "load", "parse", "read"]
