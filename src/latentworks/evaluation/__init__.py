"""Scores and pictures of a result."""
