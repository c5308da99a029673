"""The feature network, in whose features images are compared: its choice and its training."""
