"""Where images come from. One file for each `dataset.kind`."""
