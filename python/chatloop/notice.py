"""Why nothing comes, said on standard error while a request waits for a route."""

from __future__ import annotations

import sys
import threading

from .client import Client
from .errors import ChatLoopError
from .view.top import printable

INTERVAL_S = 3.0


class RouteNotice:
    """Within `with`, until `stop`: asks the router every 3 s whether there is a route, and prints
    why not, again when it has changed. The caller is blocked in its stream meanwhile, so this is a
    thread of its own; what the client says of a router that is gone is the caller's to report."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RouteNotice:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        told = ""
        while not self._stopped.wait(INTERVAL_S):
            try:
                status = self._client.status()
            except ChatLoopError:
                return
            why = str(status.get("no_route", ""))
            if self._stopped.is_set() or why == told:
                continue
            told = why
            said = f"waiting, there is no route: {printable(why)}" if why else "there is a route"
            print(f"chatloop: {said}", file=sys.stderr, flush=True)
