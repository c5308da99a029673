"""Reading and checking of params.yaml, and recipes, which rewrite it."""

from latentworks.params.reading import PARAMS, RawSections, load, parse, read

__all__ = ["PARAMS", "RawSections", "load", "parse", "read"]
