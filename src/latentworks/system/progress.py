"""Lines of progress where no terminal shows a bar: in a log, or in another program's output."""

import sys
import time

SECONDS = 10.0  # between two lines


class Ticker:
    """Tells when a line of progress is due. On a terminal, which shows a bar, none ever is."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._next = time.monotonic() + seconds

    def is_due(self) -> bool:
        """True if `seconds` have passed since the start, or since this was last true."""
        now = time.monotonic()
        if now < self._next or sys.stdout.isatty():
            return False
        self._next = now + self.seconds
        return True
