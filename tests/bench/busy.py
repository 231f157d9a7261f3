"""How much of a run the processes computed, by their CPU time and by what STATUS counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from chatloop import Client
from cluster import Cluster
from process_costs import cpu_ns_of

NOT_COMPUTING = ("router",)  # a process of its own


class BusyTimes:
    """Made before a load, read after it."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._client = client
        self._pids = {name: process.pid for name, process in cluster.processes.items()
                      if name not in NOT_COMPUTING}
        self._start_s = time.monotonic()
        self._cpu_ns = {name: cpu_ns_of(pid) for name, pid in self._pids.items()}
        self._counted = dict(hop_times(client.status()))

    def idle_by_cpu(self) -> dict[str, float]:
        """Percent of the wall time in which a process was on no CPU, all its threads summed."""
        wall_ns = 1e9 * (time.monotonic() - self._start_s)
        return {name: 100 * (1 - (cpu_ns_of(pid) - self._cpu_ns[name]) / wall_ns)
                for name, pid in self._pids.items()}

    def bubbles(self) -> dict[str, float]:
        """Percent of the time in which its route had work that a process did not compute: empty
        when STATUS does not say it."""
        found = {}
        for name, (busy_us, work_us) in hop_times(self._client.status()):
            busy_before_us, work_before_us = self._counted.get(name, (0, 0))
            if work_us > work_before_us:
                share = (busy_us - busy_before_us) / (work_us - work_before_us)
                found[name] = 100 * (1 - share)
        return found


def hop_times(status: dict[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of each worker on a route: its busy_us, of all its hops, and the route's work_us."""
    for route in status.get("routes", []):
        busy_us: dict[str, int] = {}
        for hop in route.get("hops", []):
            busy_us[hop["worker"]] = busy_us.get(hop["worker"], 0) + hop["busy_us"]
        work_us = route["counters"].get("work_us", 0)
        yield from ((name, (busy, work_us)) for name, busy in busy_us.items())
