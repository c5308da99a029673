"""MLflow as a view of the files: one run for each result."""
