"""MLflow shows the files of a checkout: one run for each result."""
