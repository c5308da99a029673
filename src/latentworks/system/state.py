"""The folder of a checkout's state."""

from pathlib import Path

STATE = Path(".latentworks")  # in the checkout; ignored by git and DVC
