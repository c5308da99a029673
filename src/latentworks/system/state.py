"""The folder with the state of one checkout."""

from pathlib import Path

STATE = Path(".latentworks")  # of this checkout alone; ignored by git and DVC
