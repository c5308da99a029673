"""The gate: the scores of a model, and the decision on its promotion."""
