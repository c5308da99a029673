"""The gate: what it measures of a model, and how it decides."""
