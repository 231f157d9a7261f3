"""What threads that share a client wait at. Built of C locks only, so that a KeyboardInterrupt at
any point leaves nothing locked: `with` on a lock of Python code could be interrupted within it."""

from __future__ import annotations

import contextlib
import threading


class Gate:
    """Opened by wake; shut again by the wait that it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._lock.release()

    def wait(self, timeout_s: float) -> None:
        self._lock.acquire(timeout=timeout_s)


class Visitors:
    """`with visitors:` around taking a lock asks its usual holder to give way.

    An interrupt may lose the end of a visit: that costs the others a pause now and then, until the
    same thread comes again.
    """

    def __init__(self) -> None:
        self._present: dict[int, None] = {}  # by thread

    def others(self) -> bool:
        """For a thread that is not on a visit."""
        self._present.pop(threading.get_ident(), None)
        return bool(self._present)

    def __enter__(self) -> None:
        self._present[threading.get_ident()] = None

    def __exit__(self, *_: object) -> None:
        self._present.pop(threading.get_ident(), None)
