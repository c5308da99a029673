"""Actions on a checkout: run its stages, repair it, make another one."""
