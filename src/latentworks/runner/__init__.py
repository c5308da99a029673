"""Actions on a checkout: run its stages, verify its files, repair it, make a worktree."""
