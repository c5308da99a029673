"""Facts about a checkout: its stages, DVC's and git's view of it, the plan, the last result."""
