"""Ctrl-C and SIGTERM as a request to save and stop."""
import signal
import threading
import time
import types
from typing import Any

# A terminal or scheduler may signal a command and what started it, which passes the signal on: one request.
_SAME_REQUEST_SECONDS = 1.0


class Interrupted(Exception):
    """A run saved itself and stopped because it was told to.

    Attributes:
        signal_number: what told it, such as ``signal.SIGTERM``.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class InterruptionRequest:
    """Context manager that turns the first SIGINT or SIGTERM into ``request.signal_number``.

    One that comes more than a second later acts as it would without us. Outside the main thread, where Python forbids
    handlers, it watches nothing.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._asked_at = 0.0
        self._previous: dict[int, Any] = {}

    def _handle(self, signal_number: int, frame: types.FrameType | None) -> None:
        del frame
        if self.signal_number is None:
            self.signal_number, self._asked_at = signal_number, time.monotonic()
        elif time.monotonic() - self._asked_at > _SAME_REQUEST_SECONDS:
            self._restore()
            signal.raise_signal(signal_number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __enter__(self) -> "InterruptionRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle)
                              for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()
