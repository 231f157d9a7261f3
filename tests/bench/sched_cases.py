"""What sched_bench.py measures: rows and cases, as rows.py has them."""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from arrivals import whole_rate
from busy import BusyTimes
from chatloop.bench.metrics import percentile, summary
from chatloop.bench.workload import Lengths, Workload
from llama_server import llama_server
from our_engine import Engine, cpud_arrivals
from rows import HOSTED_STAGES, SEPARATE_STAGES, Case, Values
from serving import OurFront, Requests, Server, gaps_s, lengths_ms

LLAMA, KERNELS = "llama-server -t 2", "cpud on each core, batch 16"
KINDS: dict[str, dict[str, Any]] = {HOSTED_STAGES: {"hosted_router": True},
                                    SEPARATE_STAGES: {"own_sampler": True}}
KV_CACHE_MB = 1024

CLIENTS, PROMPT, ANSWER = 32, 128, 128
RATE_ROW = f"{CLIENTS} clients: output tokens/s"
LATENCY_ROWS = {f"{CLIENTS} clients: {title}": key for title, key in (
    ("TTFT P50, ms", "median_ttft_ms"), ("TTFT P99, ms", "p99_ttft_ms"),
    ("between tokens P50, ms", "median_itl_ms"), ("between tokens P99, ms", "p99_itl_ms"))}
TTFT_ROWS = tuple(LATENCY_ROWS)[:2]
BUBBLE_ROW, IDLE_CPU_ROW = "bubble share, %", "off the CPU, %"
CLIENT_ROW = "CPU of the client, us a token"

STREAMS, STREAM_TOKENS, LONG_PROMPT, SETTLE_S = 8, 2000, 4000, 2.0
BEFORE_ROW = f"{STREAMS} streams: between tokens P99, ms"
DURING_ROW = f"{STREAMS} streams amid a prompt of {LONG_PROMPT}: between tokens P99, ms"
ALONE_ROW, AMID_ROW = (f"prefill {LONG_PROMPT} {how}, tokens/s"
                       for how in ("alone", f"amid {STREAMS} streams"))
LONG_ROWS = (BEFORE_ROW, DURING_ROW, ALONE_ROW, AMID_ROW)

PREFIX, OWN, PREFIXES = 1000, 8, 5
FIRST_ROW, AGAIN_ROW = (f"prefix of {PREFIX} {how}: TTFT, ms" for how in ("first", "again"))

QUEUED, PLACES = 100, 16
FAIR_ALONE_ROW, FAIR_BEHIND_ROW = "one request alone: TTFT, ms", f"behind {QUEUED}: TTFT, ms"
FAIR_STEPS_ROW = f"behind {QUEUED}: delay, steps of the others"
FAIR_ROWS = (FAIR_ALONE_ROW, FAIR_BEHIND_ROW, FAIR_STEPS_ROW)


@dataclass
class SchedSetup:
    ours: Engine
    llama: Path | None  # the program llama-server
    gguf: Path
    cores: tuple[int, int]
    requests: int  # of the closed loops
    notes: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    drawn: int = 0  # loads so far: no two are alike

    def find_llama(self, peers: Path | None) -> None:
        """Its program in DIR/llama; without it there is a note."""
        program = (peers or Path()) / "llama" / "build" / "bin" / "llama-server"
        if peers and program.exists():
            self.llama = program
        else:
            self.notes.add("no llama-server: build it with tests/bench/peers/build_llama_cpp.sh "
                           "and name its folder by --peers")

    def load(self, count: int, prompt: int, answer: int, prefix: int = 0) -> Requests:
        """Random ids, another draw each time."""
        model = models.split_cached(self.gguf, 2)
        vocab = json.loads((model / "partition_metadata.json").read_text())["vocab_size"]
        self.drawn += 1
        return Workload(count, Lengths("fixed", (prompt,)), Lengths("fixed", (answer,)), vocab,
                        prefix, self.drawn, parameters={"ignore_eos": True}).requests()

    @contextlib.contextmanager
    def cluster(self, kind: str, **options: Any) -> Iterator[Any]:
        """Warm."""
        model = models.split_cached(self.gguf, 2)
        with self.ours.cluster(model, self.cores, kv_cache_mb=KV_CACHE_MB, **KINDS[kind],
                               **options) as cluster:
            OurFront(cluster.endpoints["front"]).closed_loop(self.load(8, 32, 8), 4)
            yield cluster

    @contextlib.contextmanager
    def peer(self, slots: int, slot_context: int, cache_prompt: bool = False) -> Iterator[Server]:
        assert self.llama is not None
        with llama_server(self.llama, self.gguf, self.cores, slots=slots,
                          slot_context=slot_context, cache_prompt=cache_prompt) as server:
            server.closed_loop(self.load(8, 32, 8), min(slots, 4))
            yield server


def all_cases(setup: SchedSetup) -> list[Case]:
    """In the order within a repetition."""
    cases = [many_clients(setup, HOSTED_STAGES)]
    if setup.llama is not None:
        cases.append(peer_many_clients(setup))
    cases += [many_clients(setup, SEPARATE_STAGES), kernels(setup),
              long_prompt(setup, HOSTED_STAGES)]
    if setup.llama is not None:
        cases.append(peer_long_prompt(setup))
    cases += [long_prompt(setup, SEPARATE_STAGES), same_prefix(setup)]
    if setup.llama is not None:
        cases.append(peer_same_prefix(setup))
    return [*cases, fairness(setup)]


# ---- 32 clients ----

LOAD_ROWS = (RATE_ROW, *LATENCY_ROWS, CLIENT_ROW)


def loaded(setup: SchedSetup, name: str, server: Server) -> Values:
    """All ask at once, and each again when it has its answer."""
    requests = setup.load(setup.requests, PROMPT, ANSWER)
    before_s = time.process_time()
    outcomes = server.closed_loop(requests, CLIENTS)
    client_s = time.process_time() - before_s
    found = summary(outcomes)
    assert found["total_output_tokens"] == setup.requests * ANSWER, found
    return {(RATE_ROW, name): found["output_throughput"],
            **{(row, name): found[key] for row, key in LATENCY_ROWS.items()},
            (CLIENT_ROW, name): 1e6 * client_s / found["total_output_tokens"]}


def many_clients(setup: SchedSetup, kind: str) -> Case:
    def run(_: set[str]) -> Values:
        with setup.cluster(kind) as cluster:
            busy = BusyTimes(cluster, cluster.client())
            values = loaded(setup, kind, OurFront(cluster.endpoints["front"]))
            values |= {(IDLE_CPU_ROW, f"{kind}: {name}"): share
                       for name, share in busy.idle_by_cpu().items()}
            bubbles = busy.bubbles()
        if not bubbles:
            setup.notes.add(f"{BUBBLE_ROW}: STATUS has no busy_us and work_us")
        return values | {(BUBBLE_ROW, f"{kind}: {name}"): share
                         for name, share in bubbles.items()}
    return Case((*LOAD_ROWS, BUBBLE_ROW, IDLE_CPU_ROW), run)


def peer_many_clients(setup: SchedSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.peer(CLIENTS, PROMPT + ANSWER + 64) as server:
            return loaded(setup, LLAMA, server)
    return Case(LOAD_ROWS, run)


def kernels(setup: SchedSetup) -> Case:
    """What the cores do without router and bus: half of the load on each."""
    def run(_: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 1)
        rates: list[float] = []

        def on_one(core: int, requests: Requests) -> None:
            answers, _ = setup.ours.cpud(model, (core,), requests, "--concurrent")
            rates.append(whole_rate(cpud_arrivals(answers)))

        threads = [threading.Thread(target=on_one, args=(core, setup.load(16, PROMPT, ANSWER)))
                   for core in setup.cores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(rates) != len(threads):
            raise RuntimeError("chatloop-cpud failed")
        return {(RATE_ROW, KERNELS): sum(rates)}
    return Case((RATE_ROW,), run)


# ---- a long prompt amid streams ----


def amid_streams(setup: SchedSetup, name: str, server: Server) -> Values:
    (alone,) = server.closed_loop(setup.load(1, LONG_PROMPT, 1), 1)
    streams, late = server.newcomer(setup.load(STREAMS, 32, STREAM_TOKENS), STREAMS, SETTLE_S,
                                    *setup.load(1, LONG_PROMPT, 1))
    if any(stream.end_s for stream in streams):
        raise RuntimeError("the streams ended before the long prompt was read")
    first_s = late.start_s + late.ttft_s
    gaps = gaps_s(streams, first_s)
    before = lengths_ms(gap for gap in gaps if late.start_s - SETTLE_S / 2 < gap[1] <= late.start_s)
    during = lengths_ms(gap for gap in gaps if gap[1] > late.start_s and gap[0] < first_s)
    return {(BEFORE_ROW, name): percentile(before, 99),
            (DURING_ROW, name): percentile(during, 99),
            (ALONE_ROW, name): LONG_PROMPT / alone.ttft_s,
            (AMID_ROW, name): LONG_PROMPT / late.ttft_s}


def long_prompt(setup: SchedSetup, kind: str) -> Case:
    def run(_: set[str]) -> Values:
        with setup.cluster(kind) as cluster:
            return amid_streams(setup, kind, OurFront(cluster.endpoints["front"]))
    return Case(LONG_ROWS, run)


def peer_long_prompt(setup: SchedSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.peer(STREAMS + 1, LONG_PROMPT + 64) as server:
            return amid_streams(setup, LLAMA, server)
    return Case(LONG_ROWS, run)


# ---- the same prefix again ----


def prefix_twice(setup: SchedSetup, name: str, server: Server) -> Values:
    firsts, agains = [], []
    for _ in range(PREFIXES):
        first, again = server.closed_loop(setup.load(2, OWN, 4, PREFIX), 1)
        firsts.append(1000 * first.ttft_s)
        agains.append(1000 * again.ttft_s)
    return {(FIRST_ROW, name): statistics.median(firsts),
            (AGAIN_ROW, name): statistics.median(agains)}


def same_prefix(setup: SchedSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.cluster(HOSTED_STAGES) as cluster:
            return prefix_twice(setup, HOSTED_STAGES, OurFront(cluster.endpoints["front"]))
    return Case((FIRST_ROW, AGAIN_ROW), run)


def peer_same_prefix(setup: SchedSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.peer(1, PREFIX + 64, cache_prompt=True) as server:
            return prefix_twice(setup, LLAMA, server)
    return Case((FIRST_ROW, AGAIN_ROW), run)


# ---- fairness ----


def fairness(setup: SchedSetup) -> Case:
    """One client has taken all places and waits with more; another one comes with one request."""
    def run(_: set[str]) -> Values:
        with setup.cluster(HOSTED_STAGES,
                           stage_options=("--max-sequences", str(PLACES))) as cluster:
            server = OurFront(cluster.endpoints["front"])
            alone = statistics.median(
                outcome.ttft_s for outcome in server.closed_loop(setup.load(5, 32, 8), 1))
            others, late = server.newcomer(setup.load(QUEUED, PROMPT, ANSWER), PLACES, 0.5,
                                           *setup.load(1, 32, 8))
            first_s = late.start_s + late.ttft_s
            step_ms = statistics.median(lengths_ms(
                gap for gap in gaps_s(others, first_s)
                if gap[1] > late.start_s and gap[0] < first_s))
        return {(FAIR_ALONE_ROW, HOSTED_STAGES): 1000 * alone,
                (FAIR_BEHIND_ROW, HOSTED_STAGES): 1000 * late.ttft_s,
                (FAIR_STEPS_ROW, HOSTED_STAGES): 1000 * (late.ttft_s - alone) / step_ms}
    return Case(FAIR_ROWS, run)
