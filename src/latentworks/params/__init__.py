"""params.yaml: read, checked, and rewritten by recipes."""

from latentworks.params.reading import PARAMS, load, parse, read

__all__ = ["PARAMS", "load", "parse", "read"]
