"""Facts about a checkout: the stages of dvc.yaml, DVC, git, what would run, the last result."""
