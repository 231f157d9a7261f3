"""Collectors of both protocols get the same spans; bad ones cost spans and nothing else."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import grpc
import pytest
from cluster import Cluster, wait_until
from collectors import Collector, Exporter, GrpcCollector, RawCollector, config_of, values_of
from scrape import scrape
from test_failover import Askers
from test_metrics import settled, url_of

ODD = 'a"b\n{"}\x1b[2J\u009b'  # a request's name
SUMS_UP = 0.02
TOKEN_GAP_MAX_S = 2.0  # who waited for a silent collector would wait for 5 s


@pytest.mark.parametrize("kind", [Collector, GrpcCollector, partial(GrpcCollector, own_port=True)],
                         ids=["http", "grpc", "port-4317"])
def test_spans_have_the_names_parents_times_and_attributes_of_the_trace(build, tiny_model,
                                                                        tmp_path, kind):
    collector = kind()
    exporter = Exporter()
    try:
        with Cluster(build, tiny_model, tmp_path / "c", own_sampler=True,
                     router=config_of(tmp_path / "c", exporter.endpoint, collector.url)) as cluster:
            client = cluster.client()
            began_ns = time.time_ns()
            client.generate(request_id=ODD, token_ids=[2, 3, 4], max_tokens=30, seed=1,
                            ignore_eos=True)
            ended_ns = time.time_ns()
            trace = client.trace(ODD)
            wait_until(lambda: collector.bodies > 0, 20, "it arrives")
            cluster.stop()
        counts = exporter.stop()
    finally:
        exporter.kill()
        collector.close()
    assert counts["spans_exported"] == len(collector.spans) == len(trace["spans"])
    spans = [span for _, span in collector.spans]
    assert {span.trace_id.hex() for span in spans} == {trace["trace_id"]}
    origin_ns = spans[0].start_time_unix_nano - 1000 * trace["spans"][0][3]
    assert began_ns - 1_000_000 <= spans[0].start_time_unix_nano
    assert spans[0].end_time_unix_nano <= ended_ns + 1_000_000
    known = {"model": "gen_ai.request.model", "prompt_tokens": "gen_ai.usage.input_tokens",
             "completion_tokens": "gen_ai.usage.output_tokens"}
    for span, (name, number, parent, start_us, end_us, attributes) in zip(
            spans, trace["spans"], strict=True):
        assert span.name == name
        assert int.from_bytes(span.span_id, "big") == number
        assert int.from_bytes(span.parent_span_id, "big") == parent
        assert span.start_time_unix_nano == origin_ns + 1000 * start_us
        assert span.end_time_unix_nano == origin_ns + 1000 * end_us
        assert values_of(span) == {known.get(key, f"chatloop.{key}"): value
                                   for key, value in attributes.items()}


BAD = {
    "silent": lambda: RawCollector(b""),
    "status-500": lambda: Collector(status=500),
    "grpc-unavailable": lambda: GrpcCollector(grpc.StatusCode.UNAVAILABLE),
}
BAD_LONG = {  # a few seconds each: the exporter tries again
    "silent-grpc": lambda: RawCollector(b"", "grpc"),
    "garbage": lambda: RawCollector(b"\x00\xff no HTTP\r\n\r\n"),
    "endless-header": lambda: RawCollector(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000),
    "grpc-garbage": lambda: RawCollector(b"\x00\xff" * 100, "grpc"),
    "grpc-internal": lambda: GrpcCollector(grpc.StatusCode.INTERNAL),
}


@pytest.mark.parametrize("trouble", [
    *BAD, *(pytest.param(name, marks=pytest.mark.long) for name in BAD_LONG)])
def test_a_bad_collector_costs_spans_and_no_token_is_late(build, tiny_model, tmp_path, trouble):
    collector = {**BAD, **BAD_LONG}[trouble]()
    exporter = Exporter()
    gaps_s: list[float] = []
    asked = 0
    try:
        with Cluster(build, tiny_model, tmp_path / "c",
                     router=config_of(tmp_path / "c", exporter.endpoint, collector.url)) as cluster:
            client = cluster.client()
            client.generate(token_ids=[2], max_tokens=1)
            asked += 1
            wait_until(lambda: collector.bodies > 0, 20, "the collector is asked")
            for seed in range(6):  # while the collector has the exporter's attention
                times = [time.monotonic()]
                with client.stream(token_ids=[2, 3], max_tokens=150, ignore_eos=True,
                                   seed=seed) as stream:
                    for _ in stream:
                        times.append(time.monotonic())
                gaps_s += [b - a for a, b in pairwise(times)]
                asked += 1
            assert scrape(url_of(cluster, "router")).total(
                "coordinator_traces_sent_total") == asked
            for process in cluster.processes.values():
                assert len(os.listdir(f"/proc/{process.pid}/task")) == 3
            cluster.stop()
        counts = exporter.stop()
    finally:
        exporter.kill()
        collector.close()
    assert max(gaps_s) < TOKEN_GAP_MAX_S
    assert counts["traces"] == asked
    assert counts.get("spans_exported", 0) == 0
    # Each is counted once: a trace of these has a root, and at least four phases and hops.
    assert counts.get("spans_failed", 0) + counts.get("spans_dropped", 0) >= 5 * asked


def test_waterfalls_add_up_amid_a_replay(build, tiny_model, tmp_path):
    """Fifty requests, and a stage killed below some: phases follow each other without a gap."""
    exporter = Exporter()
    collector = Collector()
    try:
        with Cluster(build, tiny_model, tmp_path / "c", own_sampler=True,
                     router=config_of(tmp_path / "c", exporter.endpoint, collector.url)) as cluster:
            before = settled(cluster)
            askers = Askers(cluster, 8, 1000)
            cluster.restart("stage-1")
            askers.ends()

            def ask(i: int) -> int:
                client = cluster.client()
                answer = client.generate(token_ids=[2 + i % 8] * (1 + 3 * i), max_tokens=20 + i,
                                         ignore_eos=True, seed=i)
                client.close()
                return answer.usage.completion_tokens

            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(ask, range(42))) == [20 + i for i in range(42)]
            after = settled(cluster)
            wait_until(lambda: len({s.trace_id for _, s in collector.spans}) == 50, 20,
                       "all traces arrive")
            cluster.stop()
        exporter.stop()
    finally:
        exporter.kill()
        collector.close()
    durations_ns = 0
    replayed = 0
    traces: dict[bytes, list] = {}
    for _, span in collector.spans:
        traces.setdefault(span.trace_id, []).append(span)
    for root, *rest in traces.values():
        assert root.name == "request"
        phases = [span for span in rest if span.parent_span_id == root.span_id]
        duration_ns = root.end_time_unix_nano - root.start_time_unix_nano
        together_ns = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in phases)
        assert abs(together_ns - duration_ns) <= SUMS_UP * duration_ns
        for one, following in pairwise(phases):
            assert one.end_time_unix_nano <= following.start_time_unix_nano
        replayed += "replay" in [span.name for span in phases]
        durations_ns += duration_ns
        by_id = {span.span_id: span for span in [root, *rest]}
        for span in rest:
            above = by_id[span.parent_span_id]
            assert above.start_time_unix_nano <= span.start_time_unix_nano
            assert span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= above.end_time_unix_nano
    assert replayed == 8
    # The router's own measure of the same requests.
    name = "inference_request_duration_seconds_sum"
    measured_s = after.total(name) - before.total(name)
    assert abs(durations_ns / 1e9 - measured_s) <= SUMS_UP * measured_s
