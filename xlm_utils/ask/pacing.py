"""When the next request may start: one pacer for all threads that ask one server."""

import threading
import time

HEADROOM = 0.94  # share of the stated rate that is used: arrivals jitter, and limits count sliding windows
LATENESS = 0.02  # s that a late start may be made up for; more would crowd a sliding second
EASE = 10.0  # s without a complaint before the rate is raised again, by 5 %


def tokens_of(text: str) -> float:
    """Rough number of tokens, for estimates: four Latin letters or one Japanese character each."""
    latin = sum(character.isascii() for character in text)
    return latin / 4 + len(text) - latin


class Pacer:
    """Spaces the starts of all threads' requests by the tighter of two limits, and slows down when told to."""

    def __init__(self, requests_per_minute: float, tokens_per_minute: float):
        self.seconds_per_request = 60 / requests_per_minute / HEADROOM
        self.seconds_per_token = 60 / tokens_per_minute / HEADROOM if tokens_per_minute else 0.0
        self.slowdown = 1.0
        self.stopped = threading.Event()  # set: every waiting thread wakes, and none starts again
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._next = self._cut = self._eased = time.monotonic()

    def wait(self, tokens: float) -> bool:
        """Wait for this request's turn; False if the run has been stopped meanwhile."""
        gap = max(self.seconds_per_request, tokens * self.seconds_per_token)
        with self._turn:  # one at a time, so that a thread that wakes late delays the next instead of crowding it
            while not self.stopped.is_set():
                with self._lock:
                    now = time.monotonic()
                    delay = self._next - now
                    if delay <= 0:
                        self._next = max(self._next, now - LATENESS) + gap * self.slowdown
                        return True
                self.stopped.wait(delay)
        return False

    def hold(self, seconds: float, started: float) -> None:
        """Nobody starts for so long; the rate drops by a quarter, once for all requests that were already under way."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now + seconds)
            if started > self._cut:
                self.slowdown *= 4 / 3
                self._cut = now

    def ease(self) -> None:
        """A request went well: after a while without complaints, approach the stated rate again."""
        with self._lock:
            now = time.monotonic()
            if self.slowdown > 1 and now - max(self._cut, self._eased) > EASE:
                self.slowdown, self._eased = max(1.0, self.slowdown / 1.05), now
