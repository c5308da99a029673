"""The machine below: files that appear whole, processes, locks, text for a terminal."""
