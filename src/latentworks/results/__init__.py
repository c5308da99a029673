"""The result of a checkout, for its user: scores in words, next commands, and the model at work."""

from latentworks.results.model import Model, open_result

__all__ = ["Model", "open_result"]
