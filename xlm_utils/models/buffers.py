"""Memory of large tensors, used again: new pages have to be cleared, and where a host lends memory to a machine, to be fetched from it as well."""

import weakref
from threading import Lock

import numpy as np

_lock, _spare = Lock(), []


def room(n: int) -> np.ndarray:
    """``n`` bytes with any content, shape (n,), uint8. When no array or tensor looks at them any more, they are lent again."""
    with _lock:
        fitting = [(len(block), place) for place, block in enumerate(_spare) if len(block) >= n]
        block = _spare.pop(min(fitting)[1]) if fitting else np.empty(n, np.uint8)
    lent = np.frombuffer(memoryview(block)[:n], np.uint8)  # unlike one cut of an array, it is what its own parts hold on to
    weakref.finalize(lent, _spare.append, block).atexit = False
    return lent


def forget() -> None:
    """Give back to the system what is not lent, and later what is."""
    global _spare
    _spare = []
