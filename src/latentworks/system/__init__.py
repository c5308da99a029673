"""Operating system: atomic writes of files, child processes, locks, terminal text."""
