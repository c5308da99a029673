"""The verbs, one file for each DVC stage, read from top to bottom."""
