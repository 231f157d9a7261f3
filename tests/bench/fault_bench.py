"""Faults amid answers: how long until they are noticed, replayed, and answered again.

    CHATLOOP_BUILD=build tests/bench/fault_bench.py [--gguf FILE.gguf] [--repeats 20]
                                                    [--only KIND] [--json FILE]

With the tiny random model, and with --gguf with that model too. Per fault: `detected`, when the
router has taken the route down; `replayed`, when its first frame after that has left (both from
the router's counters, read every 2 ms); `token`, when the last of the streams has a token that
came after that (of a router that was killed: the end of the longest pause). Every answer is
compared with one of an unfaulted cluster. Nothing else may use the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop import Client, Generation  # noqa: E402
from cluster import Cluster, wait_until  # noqa: E402

# What is killed, whether the sampler has a process of its own, and whether there is a spare.
KINDS = {"first stage, spare": ("stage-0", True, True),
         "last stage, spare": ("stage-1", True, True),
         "sampler, spare": ("sampler", True, True),
         "first stage, restarted": ("stage-0", True, False),
         "last stage with sampler, restarted": ("stage-1", False, False),
         "router, restarted": ("router", True, False)}
STREAMS = 4
WAIT_S = 60.0
LOOK_S = 0.002
TIMES = ("detected", "replayed", "token")


class Reader(threading.Thread):
    """Reads one answer and notes when its pieces came."""

    def __init__(self, client: Client, seed: int, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.result: Generation | None = None
        self._stream = client.stream(token_ids=[2 + (seed + i) % 8 for i in range(100)], seed=seed,
                                     ignore_eos=True, temperature=0.8, max_tokens=max_tokens)

    def run(self) -> None:
        for _ in self._stream:
            self.times.append(time.monotonic())
        self.result = self._stream.result

    def first_after(self, moment: float) -> float:
        return next((at for at in self.times if at > moment), float("nan"))

    def end_of_longest_pause(self, moment: float) -> float:
        later = [at for at in self.times if at > moment]
        gaps = [(b - a, b) for a, b in zip([moment, *later], later)]
        return max(gaps)[1] if gaps else float("nan")


def watch(client: Client, before: dict[str, int], began: float) -> dict[str, float]:
    """When routes_down rises, and when a frame leaves after that."""
    seen: dict[str, float] = {}
    frames = 0
    while "replayed" not in seen and time.monotonic() - began < WAIT_S:
        counters = client.status()["counters"]
        now = time.monotonic() - began
        if "detected" not in seen and counters["routes_down"] > before["routes_down"]:
            seen["detected"] = now
            frames = counters["frames_sent"]
        elif "detected" in seen and counters["frames_sent"] > frames:
            seen["replayed"] = now
        time.sleep(LOOK_S)
    return seen


def workers_ready(client: Client, count: int) -> bool:
    return [w["state"] for w in client.status()["workers"]] == ["ready"] * count


def one_fault(cluster: Cluster, name: str, spare: bool, right: list[list[int]],
              max_tokens: int) -> dict[str, float]:
    readers = [Reader(cluster.client(), seed, max_tokens) for seed in range(STREAMS)]
    for reader in readers:
        reader.start()
    wait_until(lambda: all(len(reader.times) > 20 for reader in readers), WAIT_S, "all run")
    client = cluster.client()
    before = client.status()["counters"]
    began = time.monotonic()
    if name == "router":
        cluster.restart_router()
        seen: dict[str, float] = {}
    else:
        cluster.processes[name].kill()
        if not spare:
            cluster.restart(name)
        seen = watch(client, before, began)
    for reader in readers:
        reader.join(WAIT_S)
    for reader, tokens in zip(readers, right, strict=True):
        assert reader.result is not None and reader.result.token_ids == tokens, "another answer"
    if "replayed" in seen:
        tokens_at = [reader.first_after(began + seen["replayed"]) for reader in readers]
    else:
        tokens_at = [reader.end_of_longest_pause(began) for reader in readers]
    seen["token"] = max(tokens_at) - began
    return seen


def measure(build: Path, model: Path, kind: str, repeats: int,
            max_tokens: int) -> dict[str, list[float]]:
    name, own_sampler, spare = KINDS[kind]
    times: dict[str, list[float]] = {what: [] for what in TIMES}
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(build, model, Path(folder), own_sampler=own_sampler) as cluster:
        workers = 3 if own_sampler else 2
        if spare:
            options = () if name == "sampler" else ("--partition", name[-1])
            actor = "chatloop-sampler" if name == "sampler" else "chatloop-stage"
            cluster.start_worker("spare", actor, *options)
            workers += 1
        client = cluster.client()
        wait_until(lambda: workers_ready(client, workers), WAIT_S, "all are ready")
        calm = [Reader(cluster.client(), seed, max_tokens) for seed in range(STREAMS)]
        for reader in calm:
            reader.start()
        for reader in calm:
            reader.join(WAIT_S)
        right = [reader.result.token_ids for reader in calm if reader.result is not None]
        for _ in range(repeats):
            for what, value in one_fault(cluster, name, spare, right, max_tokens).items():
                times[what].append(value)
            if spare:  # and the names change places
                cluster.restart(name)
                cluster.processes[name], cluster.processes["spare"] = (
                    cluster.processes["spare"], cluster.processes[name])
            watcher = cluster.client()
            wait_until(lambda c=watcher: workers_ready(c, workers) and c.status()["ready"], WAIT_S,
                       "all are back")
        cluster.stop()
    return times


def cell(values: list[float]) -> str:
    if not values:
        return f"{'-':>17}"
    return f"{statistics.median(values) * 1000:8.0f} {max(values) * 1000:8.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    kinds = [kind for kind in KINDS if options.only in kind]
    with tempfile.TemporaryDirectory() as folder:
        cases = {"tiny": (models.split_tiny(Path(folder), 2), 4000)}
        if options.gguf:
            cases[options.gguf.stem] = (models.split_cached(options.gguf, 2), 400)
        print(f"{options.repeats} faults of each kind under {STREAMS} streams; ms from the fault: "
              "median, maximum")
        print(f"{'model':<32} {'killed':<36}" + "".join(f"{what:>18}" for what in TIMES))
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for case, (model, max_tokens) in cases.items():
            for kind in kinds:
                times = measure(build, model, kind, options.repeats, max_tokens)
                found.setdefault(case, {})[kind] = times
                print(f"{case:<32} {kind:<36}"
                      + "".join(f" {cell(times[what])}" for what in TIMES), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
