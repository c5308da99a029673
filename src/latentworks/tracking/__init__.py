"""Runs in MLflow: one for each result, with its params, curves, metrics and files."""
