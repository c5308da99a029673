"""Image sources: one module for each `dataset.kind`."""
