"""What http_bench.py measures: rows and cases, as rows.py has them."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import models
from cluster import Cluster, Process, wait_until
from http_load import (Crowd, HttpStreams, Probe, Times, closing_all, connect, in_mid_stream,
                       over_http, over_zeromq, post)
from process_costs import cpu_ns_of, on_cores
from rows import HOSTED_STAGES, SEPARATE_STAGES, Case, Values
from sched_cases import LLAMA, SchedSetup

HTTP, ZEROMQ = f"HTTP, {HOSTED_STAGES}", "ZeroMQ"
OWN_ROUTER = "HTTP"  # with the ZeroMQ front of the same router beside it
STREAMS, PROMPT, ANSWER = 32, 128, 128
RATE_ROW = f"{STREAMS} streams: output tokens/s"
TTFT_ROWS = {f"{STREAMS} streams: TTFT P{p}, ms": p / 100 for p in (50, 99)}
BETWEEN_ROWS = {f"{STREAMS} streams: between tokens P{p}, ms": p / 100 for p in (50, 99)}
LOAD_ROWS = (RATE_ROW, *TTFT_ROWS, *BETWEEN_ROWS)
ALONE_ROW, ALONE_REQUESTS = "one request alone: TTFT, ms", 20
CPU_ROW, READER_ROW = "CPU of the router, us a token", "CPU of who reads, us a token"

IDLE, SLOW, VANISHING = 1000, 200, 200
CALM, CROWD = "alone", f"{IDLE} idle, {SLOW} slow"
# While nobody prefills any more, as when the others vanish.
DECODING, VANISHED = "alone, all decode", f"{VANISHING} vanished"
OTHERS_ROW = f"{STREAMS} streams: between tokens P99 beside others, ms"
FREED_ROW, FREED_TIMEOUT_S = f"{VANISHING} clients that vanish: freed after, ms", 60.0
GAP_ROW, LARGE_BYTES, PROBE_S = "loop of the router amid 4 MiB prompts: gap, ms", 4 << 20, 0.005
CPUD_ROW, CPUD_REQUESTS = "cpuds: output tokens/s", 8
ONE_CPUD, TWO_CPUDS = "1 on one core", "2 on two cores"


@dataclass
class HttpSetup(SchedSetup):
    @contextlib.contextmanager
    def http(self, kind: str, **options: Any) -> Iterator[Cluster]:
        """A warm cluster with HTTP: .endpoints["http"]."""
        hosted = ["http:", '  bind: "127.0.0.1:*"']
        router = hosted if kind == HOSTED_STAGES else ["--http", "127.0.0.1:*"]
        with self.cluster(kind, router=router, **options) as cluster:
            yield cluster


def all_cases(setup: HttpSetup) -> list[Case]:
    """In the order within a repetition."""
    cases = [many_streams(setup)]
    if setup.llama is not None:
        cases.append(peer_many_streams(setup))
    return [*cases, beside_zeromq(setup), crowds(setup), large_prompts(setup), cpuds(setup)]


# ---- 32 streams ----


def loaded(name: str, times: Times) -> Values:
    if times.tokens != STREAMS * ANSWER:
        raise RuntimeError(f"{name} made {times.tokens} tokens")
    return {(RATE_ROW, name): times.rate(),
            **{(row, name): times.first_ms(share) for row, share in TTFT_ROWS.items()},
            **{(row, name): times.between_ms(share) for row, share in BETWEEN_ROWS.items()}}


def many_streams(setup: HttpSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.http(HOSTED_STAGES) as cluster:
            return loaded(HTTP, over_http(cluster.endpoints["http"],
                                          setup.load(STREAMS, PROMPT, ANSWER)))
    return Case(LOAD_ROWS, run)


def peer_many_streams(setup: HttpSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.peer(STREAMS, PROMPT + ANSWER + 64) as server:
            return loaded(LLAMA, over_http(server.url, setup.load(STREAMS, PROMPT, ANSWER)))
    return Case(LOAD_ROWS, run)


def beside_zeromq(setup: HttpSetup) -> Case:
    """The same router, in turns."""
    def run(_: set[str]) -> Values:
        alone: dict[str, list[float]] = {OWN_ROUTER: [], ZEROMQ: []}
        values: Values = {}
        with setup.http(SEPARATE_STAGES) as cluster:
            pid = cluster.processes["router"].pid
            ways = {OWN_ROUTER: lambda load: over_http(cluster.endpoints["http"], load),
                    ZEROMQ: lambda load: over_zeromq(cluster.endpoints["front"], load)}
            for _ in range(ALONE_REQUESTS):
                for name, way in ways.items():
                    alone[name].append(way(setup.load(1, 16, 4)).first_ms(0.5))
            for name, way in ways.items():
                before_ns, before_s = cpu_ns_of(pid), time.process_time()
                times = way(setup.load(STREAMS, PROMPT, ANSWER))
                values[READER_ROW, name] = 1e6 * (time.process_time() - before_s) / times.tokens
                values |= loaded(name, times)
                values[CPU_ROW, name] = (cpu_ns_of(pid) - before_ns) / 1000 / times.tokens
        return values | {(ALONE_ROW, name): statistics.median(found)
                         for name, found in alone.items()}
    return Case((*LOAD_ROWS, ALONE_ROW, CPU_ROW, READER_ROW), run)


# ---- a crowd beside them ----


def running(cluster: Cluster) -> int:
    status = cluster.client().status()
    return int(status["running"] + status["waiting"])


def crowds(setup: HttpSetup) -> Case:
    def run(_: set[str]) -> Values:
        with setup.http(SEPARATE_STAGES) as cluster:
            url = cluster.endpoints["http"]

            def load() -> Any:
                return setup.load(STREAMS, PROMPT, ANSWER)

            values = {(OTHERS_ROW, CALM): over_http(url, load()).between_ms(0.99)}
            calm = over_http(url, setup.load(STREAMS, PROMPT, 3 * ANSWER))
            values[OTHERS_ROW, DECODING] = calm.between_ms(0.99, calm.all_have_one_at())
            crowd = Crowd(url, IDLE, setup.load(SLOW, 8, 16))
            with contextlib.closing(crowd):
                wait_until(lambda: not running(cluster), FREED_TIMEOUT_S, "the slow have answers")
                with contextlib.closing(HttpStreams(url, load())) as streams:
                    times = streams.serve(beside=crowd.read_a_little)
                values[OTHERS_ROW, CROWD] = times.between_ms(0.99)
            values |= vanishing(setup, cluster)
        return values
    return Case((OTHERS_ROW, FREED_ROW), run)


def vanishing(setup: HttpSetup, cluster: Cluster) -> Values:
    """In mid-stream, all at once, while the others have theirs."""
    url = cluster.endpoints["http"]
    client = cluster.client()
    with contextlib.closing(HttpStreams(url, setup.load(STREAMS, PROMPT, 3 * ANSWER))) as streams:
        streams.serve(until=lambda: all(streams.times.came))
        gone = in_mid_stream(url, setup.load(VANISHING, 8, 4 * ANSWER))
        with closing_all(gone):
            before = running(cluster)
        if before != STREAMS + VANISHING:
            raise RuntimeError(f"{before} ran when they vanished")
        since = time.monotonic()
        freed: list[float] = []

        def look() -> None:
            status = client.status()
            if not freed and status["running"] + status["waiting"] <= STREAMS:
                freed.append(time.monotonic())

        times = streams.serve(beside=look, beside_s=0.02)
    if not freed:
        raise RuntimeError("nothing was freed while the others ran")
    return {(OTHERS_ROW, VANISHED): times.between_ms(0.99, freed[0]),
            (FREED_ROW, OWN_ROUTER): 1000 * (freed[0] - since)}


def large_prompts(setup: HttpSetup) -> Case:
    """One after another while the streams run; each is refused when it was read."""
    def run(_: set[str]) -> Values:
        body = json.dumps({"prompt": "x" * LARGE_BYTES}).encode()
        with setup.http(SEPARATE_STAGES) as cluster:
            url = cluster.endpoints["http"]
            with contextlib.closing(HttpStreams(url, setup.load(STREAMS, PROMPT, ANSWER))) \
                    as streams, contextlib.closing(Probe(url)) as probe, tempfile.TemporaryFile() \
                    as refusals:
                streams.serve(until=lambda: all(streams.times.came))
                # Another process, so that the sending does not hold up the probe.
                sender = subprocess.Popen(
                    ["python3", "-c", SENDER, *(str(part) for part in urlsplit(url).netloc
                                                .rsplit(":", 1)), "4"],
                    stdin=subprocess.PIPE, stdout=refusals)
                try:
                    assert sender.stdin is not None
                    sender.stdin.write(post("/v1/completions", body))
                    sender.stdin.close()
                    streams.serve(beside=probe, beside_s=PROBE_S)
                    sender.wait(FREED_TIMEOUT_S)
                finally:
                    sender.kill()
                    sender.wait()
                refusals.seek(0)
                statuses = refusals.read().split()
        if statuses != [b"400"] * 4:
            raise RuntimeError(f"the large prompts had the statuses {statuses}")
        return {(GAP_ROW, OWN_ROUTER): probe.worst_ms}
    return Case((GAP_ROW,), run)


SENDER = """
import socket, sys
request = sys.stdin.buffer.read()
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as raw:
        raw.sendall(request)
        print(raw.recv(64).split()[1].decode(), flush=True)
"""


# ---- cpuds ----


@contextlib.contextmanager
def cpud(setup: HttpSetup, core: int, folder: Path) -> Iterator[str]:
    model = models.split_cached(setup.gguf, 1)
    with on_cores((core,)):
        process = Process(f"cpud-{core}", folder / f"{core}.log", [
            setup.ours.build / "actors" / "chatloop-cpud", "--model", model, "--port", "0"])
    try:
        def listens() -> list[str]:
            if process.exit_code is not None:
                raise RuntimeError(f"chatloop-cpud ended with {process.exit_code}")
            return re.findall(r"listens at (http://\S+),", "\n".join(process.messages()))

        wait_until(listens, FREED_TIMEOUT_S, "chatloop-cpud listens")
        yield listens()[0]
        process.terminate()
        if process.wait(FREED_TIMEOUT_S) != 0:
            raise RuntimeError("chatloop-cpud did not drain")
    finally:
        process.kill()


def cpuds(setup: HttpSetup) -> Case:
    """Each on a core of its own has all its requests at once, and runs one after another."""
    def measure(cores: tuple[int, ...]) -> float:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            urls = [stack.enter_context(cpud(setup, core, folder)) for core in cores]
            asked = []
            for url in urls:
                for request in setup.load(CPUD_REQUESTS, 32, ANSWER):
                    body = json.dumps({"prompt": "word " * 32, "max_tokens": request["max_tokens"],
                                       "ignore_eos": True})
                    asked.append((url, post("/execute", body.encode())))
            for url in urls:
                execute(url, asked[0][1])  # warm
            began = time.monotonic()
            waiting = [stack.enter_context(contextlib.closing(connect(url))) for url, _ in asked]
            for raw, (_, request) in zip(waiting, asked, strict=True):
                raw.sendall(request)
            tokens = sum(completion_tokens(raw) for raw in waiting)
            return tokens / (time.monotonic() - began)

    def run(_: set[str]) -> Values:
        return {(CPUD_ROW, ONE_CPUD): measure(setup.cores[1:]),
                (CPUD_ROW, TWO_CPUDS): measure(setup.cores)}
    return Case((CPUD_ROW,), run)


def execute(url: str, request: bytes) -> int:
    with contextlib.closing(connect(url)) as raw:
        raw.sendall(request)
        return completion_tokens(raw)


def completion_tokens(raw: Any) -> int:
    data = b""
    while b"\r\n\r\n" not in data or b"}" not in data.partition(b"\r\n\r\n")[2]:
        more = raw.recv(1 << 16)
        if not more:
            raise RuntimeError(f"no answer: {data[-300:]!r}")
        data += more
    found = re.search(rb'"completion_tokens":(\d+)', data)
    if found is None:
        raise RuntimeError(f"no answer: {data[-300:]!r}")
    return int(found[1])
