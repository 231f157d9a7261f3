"""What the router and its workers have counted, as STATUS says it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from chatloop import Client
from cluster import wait_until

TRAVEL_S = 10.0  # a worker's counters come with its next heartbeat


def counts(client: Client) -> Counter[str]:
    """Flat: "requests", "errors.not_utf8", "stage-0.headers_bad"."""
    status = client.status()
    found = Counter(status["counters"])
    found.update({f"errors.{code}": count for code, count in status["errors"].items()})
    for worker in status["workers"]:
        found.update({f"{worker['name']}.{name}": n for name, n in worker["counters"].items()})
    return found


@contextlib.contextmanager
def rising(client: Client, by: dict[str, int]) -> Iterator[None]:
    """Soon after the block each of these counters has risen by at least so much."""
    before = counts(client)
    yield

    def risen() -> bool:
        now = counts(client)
        return all(now[name] - before[name] >= count for name, count in by.items())

    wait_until(risen, TRAVEL_S, f"counted {by}")
