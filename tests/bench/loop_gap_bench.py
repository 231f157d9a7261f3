"""The pauses of every process's loop under load, and why the long ones were.

    CHATLOOP_BUILD=build tests/bench/loop_gap_bench.py --gguf FILE.gguf [--requests 256]
                                                       [--json FILE]

32 clients at any time, 128 tokens in and 128 out; router, two stages and sampler, each a process.
From every process's /metrics five times a second: how long it did not look at its sockets, turn by
turn. A pause counts as its bucket's upper end. For each interval with one of more than 150 ms: how
long its thread waited for a CPU (/proc/PID/schedstat), how much the hypervisor took (steal in
/proc/stat, of all CPUs), and what is not explained by the two. Nothing else may use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from cluster import Cluster  # noqa: E402
from scrape import scrape  # noqa: E402

from our_engine import request  # noqa: E402
from serving import OurFront  # noqa: E402

CLIENTS, PROMPT, ANSWER = 32, 128, 128
LOOK_S = 0.2
LONG_S, BOUND_S = 0.150, 0.060
NAME = "chatloop_loop_gap_seconds_bucket"
METRICS = ("--metrics", "127.0.0.1:*")


@dataclass(frozen=True)
class Sample:
    at_s: float
    turns: dict[float, float]  # by a bucket's upper end: turns of at most so long, since the start
    waited_s: float            # for a CPU
    stolen_s: float            # by the hypervisor, on all CPUs together

    @classmethod
    def now(cls, url: str, pid: int) -> Sample:
        page = scrape(url)
        turns = {float(dict(labels)["le"]): count for (name, labels), count in page.samples.items()
                 if name == NAME}
        # Of the main thread: the one that the loop runs in.
        waited_ns = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1])
        stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
        return cls(time.monotonic(), turns, waited_ns / 1e9, stolen / os.sysconf("SC_CLK_TCK"))


def pauses(before: Sample, after: Sample) -> Iterator[tuple[float, float]]:
    """(a bucket's upper end, turns in it between the two)"""
    below = 0.0
    for end_s in sorted(after.turns):
        upto = after.turns[end_s] - before.turns[end_s]
        yield end_s, upto - below
        below = upto


def quantile(found: list[tuple[float, float]], share: float) -> float:
    total = sum(count for _, count in found)
    upto = 0.0
    for end_s, count in found:
        upto += count
        if upto >= share * total:
            return end_s
    return float("inf")


def longest(found: list[tuple[float, float]]) -> float:
    return max((end_s for end_s, count in found if count), default=0.0)


class Watcher(threading.Thread):
    """Takes samples of a process until it is told to stop."""

    def __init__(self, url: str, pid: int) -> None:
        super().__init__(daemon=True)
        self._url, self._pid = url, pid
        self._done = threading.Event()
        self.samples = [Sample.now(url, pid)]

    def run(self) -> None:
        while not self._done.wait(LOOK_S):
            self.samples.append(Sample.now(self._url, self._pid))

    def stop(self) -> None:
        self._done.set()
        self.join()


def long_ones(samples: list[Sample]) -> list[dict[str, float]]:
    found = []
    for before, after in zip(samples, samples[1:]):
        gap_s = longest(list(pauses(before, after)))
        if gap_s > LONG_S:
            waited_s = after.waited_s - before.waited_s
            stolen_s = after.stolen_s - before.stolen_s
            found.append({"gap_s_max": gap_s, "waited_s": waited_s, "stolen_s": stolen_s,
                          "unexplained_s": max(gap_s - waited_s - stolen_s, 0.0)})
    return found


def url_of(cluster: Cluster, name: str) -> str:
    told = "\n".join(cluster.processes[name].messages())
    found = re.search(r"metrics (http://[\d.]+:\d+)", told)
    assert found, told
    return found[1]


def measure(build: Path, model: Path, requests: int) -> dict[str, list[Sample]]:
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(build, model, Path(folder), own_sampler=True, router=METRICS, stage=METRICS,
                    sampler=METRICS) as cluster:
        front = OurFront(cluster.endpoints["front"])
        front.closed_loop([request(32, 8, 1000 + i) for i in range(8)], 4)  # warm
        watchers = {name: Watcher(url_of(cluster, name), process.pid)
                    for name, process in cluster.processes.items()}
        for watcher in watchers.values():
            watcher.start()
        front.closed_loop([request(PROMPT, ANSWER, i) for i in range(requests)], CLIENTS)
        for watcher in watchers.values():
            watcher.stop()
        cluster.stop()
    return {name: watcher.samples for name, watcher in watchers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    began = time.monotonic()
    runs = measure(build, models.split_cached(options.gguf, 2), options.requests)
    print(f"{options.requests} requests by {CLIENTS} clients, {time.monotonic() - began:.0f} s "
          f"with set-up; pauses in ms, P99.9 wanted: at most {BOUND_S * 1000:.0f}")
    print(f"{'process':<12} {'turns':>9} {'P99':>7} {'P99.9':>7} {'longest':>8}  over 150")
    report = {}
    for name, samples in runs.items():
        found = list(pauses(samples[0], samples[-1]))
        long = long_ones(samples)
        report[name] = {"turns": sum(count for _, count in found), "p99_s": quantile(found, 0.99),
                        "p999_s": quantile(found, 0.999), "max_s": longest(found), "long": long}
        of = report[name]
        print(f"{name:<12} {of['turns']:>9.0f} {of['p99_s'] * 1000:>7.2f} "
              f"{of['p999_s'] * 1000:>7.2f} {of['max_s'] * 1000:>8.1f}  {len(long)}")
        for one in long:
            print("             up to {gap_s_max:.2f} s: {waited_s:.3f} s in the run queue, "
                  "{stolen_s:.2f} s stolen, {unexplained_s:.3f} s unexplained".format(**one))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
