"""Stages of dvc.yaml: one module each, with the name of the stage."""
