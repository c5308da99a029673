"""Sweeps: trainings with several values of some params, compared on validation images."""
