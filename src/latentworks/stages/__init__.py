"""The stages of dvc.yaml: one file each, named like the stage."""
