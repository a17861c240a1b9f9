"""Memory of large tensors, used again: new pages have to be cleared, and where a host lends memory to a machine, to be fetched from it as well."""

import weakref
from threading import Lock

import numpy as np

_lock, _spare = Lock(), []
MOST = 1 << 28  # bytes of a block that is kept: larger ones, of embeddings, would lie idle for the rest of a merge


def room(n: int) -> np.ndarray:
    """``n`` bytes with any content, shape (n,), uint8; up to ``MOST``, they are lent again when no array or tensor looks at them any more."""
    with _lock:
        fitting = [(len(block), place) for place, block in enumerate(_spare) if n <= len(block) <= 1.25 * n]  # a larger one would lie half idle
        block = _spare.pop(min(fitting)[1]) if fitting else np.empty(n, np.uint8)
    lent = np.frombuffer(memoryview(block)[:n], np.uint8)  # unlike one cut of an array, it is what its own parts hold on to
    if len(block) <= MOST:
        weakref.finalize(lent, _spare.append, block).atexit = False
    return lent


def forget() -> None:
    """Give back to the system what is not lent, and later what is."""
    global _spare
    with _lock:
        _spare = []
