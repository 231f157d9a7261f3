"""kill -9 of each kind of worker: how long until its clients hear of it, and until it serves again.

    CHATLOOP_BUILD=build tests/bench/fault_bench.py [--gguf FILE.gguf] [--kills 20] [--json FILE]

With the tiny random model, and with --gguf with that model too. Nothing else may use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop import ChatLoopError, Client  # noqa: E402
from cluster import Cluster, wait_until  # noqa: E402

# What is killed, and whether the sampler has a process of its own.
KINDS = {"first stage": ("stage-0", True), "last stage": ("stage-1", True),
         "sampler": ("sampler", True), "last stage with sampler": ("stage-1", False),
         "first stage, idle": ("stage-0", True)}
WAIT_S = 30.0


def until_error(client: Client, cluster: Cluster, name: str) -> float:
    """Seconds from the kill to the client's error, amid a long answer."""
    stream = client.stream(token_ids=[5, 6, 7], ignore_eos=True, max_tokens=4000)
    next(stream)
    began = time.monotonic()
    cluster.processes[name].kill()
    try:
        for _ in stream:
            pass
    except ChatLoopError as error:
        assert error.code == "worker_lost", error
        return time.monotonic() - began
    raise AssertionError("the answer was complete before the kill")


def until_noticed(client: Client, cluster: Cluster, name: str) -> float:
    """The same without any request: until STATUS says so."""
    began = time.monotonic()
    cluster.processes[name].kill()
    wait_until(lambda: not client.status()["ready"], WAIT_S, "the loss is noticed")
    return time.monotonic() - began


def until_served(client: Client, cluster: Cluster, name: str) -> float:
    """Seconds from the restart to the first answer, whose request waits for the route."""
    began = time.monotonic()
    cluster.restart(name)
    result = client.generate(token_ids=[5, 6, 7], ignore_eos=True, max_tokens=1)
    assert len(result.token_ids) == 1
    return time.monotonic() - began


def measure(build: Path, model: Path, kind: str, kills: int) -> dict[str, list[float]]:
    name, own_sampler = KINDS[kind]
    notice = until_noticed if kind.endswith("idle") else until_error
    times: dict[str, list[float]] = {"to_error_s": [], "to_served_s": []}
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(build, model, Path(folder), own_sampler=own_sampler) as cluster:
        client = cluster.client()
        for _ in range(kills):
            times["to_error_s"].append(notice(client, cluster, name))
            times["to_served_s"].append(until_served(client, cluster, name))
        cluster.stop()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    with tempfile.TemporaryDirectory() as folder:
        cases = {"tiny": models.split_tiny(Path(folder), 2)}
        if options.gguf:
            cases[options.gguf.stem] = models.split_cached(options.gguf, 2)
        print(f"{options.kills} kills of each kind; ms: median, maximum")
        print(f"{'model':<32} {'killed':<24} {'to the error':>16} {'to an answer':>16}")
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for case, model in cases.items():
            for kind in KINDS:
                times = measure(build, model, kind, options.kills)
                found.setdefault(case, {})[kind] = times
                cells = [f"{statistics.median(t) * 1000:8.1f} {max(t) * 1000:7.1f}"
                         for t in times.values()]
                print(f"{case:<32} {kind:<24} {cells[0]:>16} {cells[1]:>16}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
