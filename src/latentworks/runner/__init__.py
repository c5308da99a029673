"""Actions on a checkout: run its stages, repair it after a kill, make a worktree."""
