"""Faults amid answers: how long until they are noticed, replayed, and answered again.

    CHATLOOP_BUILD=build tests/bench/fault_bench.py [--gguf FILE.gguf] [--repeats 20]
                                                    [--only KIND] [--prompts 64,512]
                                                    [--no-tiny] [--json FILE]

With the tiny random model, and with --gguf with that model too. Per fault: `detected`, when the
router has taken the route down; `replayed`, when its first frame after that has left (both from
the router's counters, read every 2 ms); `token`, when the last of the streams has a token that
came after that (of a router that was killed: the end of the longest pause). Every answer is
compared with one of an unfaulted cluster. A cut is a network cable: every process has a network
namespace of its own, which takes root. Nothing else may use the machine.

With --prompts, and one stream of each such prompt, there are two columns more: the prefill of as
many tokens as prompt and committed ones, timed on the same cluster without a fault, and the bound
of the next token, 1.2 s and 1.2 times that.
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop import Client, Generation  # noqa: E402
from cluster import Cluster, wait_until  # noqa: E402

from fault_kinds import KINDS, Kind, faulty_cluster  # noqa: E402

STREAMS = 4
PROMPT = 100
WAIT_S = 60.0
LOOK_S = 0.002
TIMES = ("detected", "replayed", "token")
BOUNDS = ("prefill", "bound")


def prompt_ids(length: int, seed: int) -> list[int]:
    return [2 + (seed + i) % 8 for i in range(length)]


class Reader(threading.Thread):
    """Reads one answer and notes when its pieces came."""

    def __init__(self, client: Client, seed: int, prompt: int, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.result: Generation | None = None
        self._stream = client.stream(token_ids=prompt_ids(prompt, seed), seed=seed,
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


@dataclass(frozen=True)
class Load:
    """Streams that run as the fault comes."""

    streams: int
    prompt: int
    max_tokens: int
    begun: int = 20  # tokens that each has by then

    def start(self, cluster: Cluster) -> list[Reader]:
        readers = [Reader(cluster.client(), seed, self.prompt, self.max_tokens)
                   for seed in range(self.streams)]
        for reader in readers:
            reader.start()
        return readers


def one_fault(cluster: Cluster, kind: Kind, load: Load,
              right: list[list[int]]) -> dict[str, float]:
    readers = load.start(cluster)
    wait_until(lambda: all(len(reader.times) > load.begun for reader in readers), WAIT_S,
               "all run")
    client = cluster.client()
    before = client.status()["counters"]
    committed = max(len(reader.times) for reader in readers)
    began = time.monotonic()
    kind.strike(cluster)
    seen = {} if kind.victim == "router" else watch(client, before, began)
    for reader in readers:
        reader.join(WAIT_S)
    for reader, tokens in zip(readers, right, strict=True):
        assert reader.result is not None and reader.result.token_ids == tokens, "another answer"
    if "replayed" in seen:
        tokens_at = [reader.first_after(began + seen["replayed"]) for reader in readers]
    else:
        tokens_at = [reader.end_of_longest_pause(began) for reader in readers]
    seen["token"] = max(tokens_at) - began
    seen["committed"] = committed
    return seen


def prefill_s(client: Client, tokens: int, serial: int) -> float:
    """Of a prompt that no cache knows: it begins with tokens that no other has."""
    ids = [2 + serial, 3 + serial, *(5 + i % 4 for i in range(tokens - 2))]
    result = client.generate(token_ids=ids, max_tokens=1, ignore_eos=True)
    return result.durations.prefill_ms / 1000


def measure(build: Path, model: Path, kind: Kind, repeats: int, load: Load,
            with_prefill: bool) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {what: [] for what in (*TIMES, *BOUNDS)}
    with tempfile.TemporaryDirectory() as folder, \
            faulty_cluster(build, model, Path(folder), kind) as cluster:
        workers = len(cluster.processes) - 1
        wait_until(lambda c=cluster.client(): workers_ready(c, workers), WAIT_S, "all are ready")
        calm = load.start(cluster)
        for reader in calm:
            reader.join(WAIT_S)
        right = [reader.result.token_ids for reader in calm if reader.result is not None]
        for repeat in range(repeats):
            seen = one_fault(cluster, kind, load, right)
            for what in TIMES:
                times[what] += [seen[what]] if what in seen else []
            kind.heal(cluster)
            watcher = cluster.client()
            wait_until(lambda c=watcher: workers_ready(c, workers) and c.status()["ready"], WAIT_S,
                       "all are back")
            if with_prefill:
                alone_s = prefill_s(watcher, load.prompt + int(seen["committed"]), 10 * repeat)
                times["prefill"].append(alone_s)
                times["bound"].append(1.2 + 1.2 * alone_s)
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
    parser.add_argument("--prompts", default="", help="lengths, as 64,512,2000")
    parser.add_argument("--no-tiny", action="store_true", help="only the model of --gguf")
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    kinds = {name: kind for name, kind in KINDS.items() if options.only in name}
    prompts = [int(length) for length in options.prompts.split(",") if length]
    columns = (*TIMES, *BOUNDS) if prompts else TIMES
    with tempfile.TemporaryDirectory() as folder:
        cases = {}
        if not options.no_tiny:
            cases["tiny"] = (models.split_tiny(Path(folder), 2), 4000)
        if options.gguf:
            cases[options.gguf.stem] = (models.split_cached(options.gguf, 2), 400)
        loads = [Load(1, length, 300, begun=60) for length in prompts]
        print(f"{options.repeats} faults of each kind; ms from the fault: median, maximum")
        print(f"{'model':<32} {'streams':>8} {'fault':<36}"
              + "".join(f"{what:>18}" for what in columns))
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for case, (model, max_tokens) in cases.items():
            for load in loads or [Load(STREAMS, PROMPT, max_tokens)]:
                for name, kind in kinds.items():
                    times = measure(build, model, kind, options.repeats, load, bool(prompts))
                    found.setdefault(f"{case} {load.prompt}", {})[name] = times
                    print(f"{case:<32} {f'{load.streams} x {load.prompt}':>8} {name:<36}"
                          + "".join(f" {cell(times[what])}" for what in columns), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
