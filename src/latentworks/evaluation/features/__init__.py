"""The network in whose features images are compared, and who decides which one it is."""
