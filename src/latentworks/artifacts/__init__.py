"""The files between stages: one module for each arrow of dvc.yaml."""
