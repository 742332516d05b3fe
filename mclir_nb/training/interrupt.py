"""Stopping a run where nothing is half done: Ctrl-C, an interrupted kernel, a scheduler that asks to end."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed():
    """An event that Ctrl-C sets instead of stopping at once; the loop looks at it between steps.

    A second Ctrl-C stops at once; then the last checkpoint is what is left. Outside the main thread Python allows no
    handlers, and the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number, frame):
        if event.is_set():
            raise KeyboardInterrupt("stopped at once; run the same command to go on from the last checkpoint.")
        event.set()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
