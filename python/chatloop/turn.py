"""A lock that goes round: who waits longest is next.

threading.Lock lets the thread that just released it take it again, so that one thread in a
receive loop would keep all others from the socket.
"""

from __future__ import annotations

import threading
from collections import deque


class Turn:
    """Use as `with turn:`. Not reentrant."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # guards the two below, never held for long
        self._taken = False
        self._gates: deque[threading.Lock] = deque()  # one locked gate per waiting thread

    def __enter__(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        try:
            gate.acquire()
        except BaseException:  # an interrupt: leave the queue, or pass on the turn just given
            with self._mutex:
                given = gate not in self._gates
                if not given:
                    self._gates.remove(gate)
            if given:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            if self._gates:
                self._gates.popleft().release()  # the turn stays taken, by that thread
            else:
                self._taken = False
