"""Facts about a checkout: stages, the plan, the last result, and what DVC and git know of it."""
