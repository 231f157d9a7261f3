"""Traces: from a router to a collector of OTLP, through python -m chatloop.telemetry."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgpack
import pytest
import zmq
from cluster import Cluster, wait_until
from collectors import Collector, Exporter, config_of, values_of
from scrape import scrape
from test_metrics import url_of

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASK = {"token_ids": [2, 3, 4], "max_tokens": 30, "ignore_eos": True}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_trace_reaches_the_collector_and_the_file(build, tiny_model, tmp_path, collector):
    file = tmp_path / "traces.jsonl"
    exporter = Exporter("--file", file)
    try:
        options = config_of(tmp_path / "c", exporter.endpoint, collector.url)
        with Cluster(build, tiny_model, tmp_path / "c", own_sampler=True,
                     router=options) as cluster:
            client = cluster.client()
            client.generate(request_id="first", traceparent=CALLER, **ASK)
            client.generate(request_id="second", n=2, **ASK)
            wait_until(lambda: scrape(url_of(cluster, "router")).total(
                "coordinator_traces_sent_total") == 2, 10, "both are sent")
            shown = client.trace("first")
            cluster.stop()
        wait_until(lambda: len({s.trace_id for _, s in collector.spans}) == 2, 10, "both arrive")
    finally:
        counts = exporter.stop()
    spans = [span for _, span in collector.spans if span.trace_id.hex() == CALLER[3:35]]
    assert [span.name for span in spans] == [span[0] for span in shown["spans"]]
    root = spans[0]
    assert (root.name, root.parent_span_id.hex(), root.kind) == ("request", CALLER[36:52], 2)
    assert values_of(root)["chatloop.request_id"] == "first"
    assert values_of(root)["gen_ai.usage.output_tokens"] == 30
    phases = [span for span in spans if span.parent_span_id == root.span_id]
    assert [span.name for span in phases] == ["tokenization", "queue", "prefill", "decode"]
    duration = root.end_time_unix_nano - root.start_time_unix_nano
    together = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in phases)
    assert abs(together - duration) <= 0.02 * duration
    below = [span.name for span in spans if span.parent_span_id == phases[3].span_id]
    assert below == ["decode stage 0", "decode stage 1", "sampling"]
    resource = values_of(collector.spans[0][0])
    assert resource == {"service.name": "chatloop-router", "service.instance.id": "router"}

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] == CALLER[3:35]
    assert counts["traces"] == 2
    assert counts["spans_exported"] == counts["spans_written"] == len(collector.spans)
    other = [span for _, span in collector.spans if span.trace_id.hex() != CALLER[3:35]]
    assert {values_of(span).get("chatloop.choice") for span in other
            if span.parent_span_id == other[0].span_id} == {0, 1}


@pytest.mark.parametrize("trouble", ["absent", "stuck"])
def test_without_a_reader_traces_are_dropped_and_answers_come(build, tiny_model, tmp_path, trouble):
    """`stuck`: an exporter that takes nothing. Its queue and ours fill, then traces are dropped."""
    context = zmq.Context()
    reader = context.socket(zmq.PULL)
    reader.setsockopt(zmq.RCVHWM, 1)
    reader.setsockopt(zmq.RCVBUF, 4096)
    reader.bind("tcp://127.0.0.1:*")
    endpoint = reader.getsockopt_string(zmq.LAST_ENDPOINT)
    if trouble == "absent":
        reader.close(0)
    try:
        options = config_of(tmp_path / "c", endpoint, "http://127.0.0.1:9")
        with Cluster(build, tiny_model, tmp_path / "c", router=options) as cluster:
            client = cluster.client()
            url = url_of(cluster, "router")

            def dropped() -> float:
                return scrape(url).total("coordinator_traces_dropped_total")

            for i in range(6000):
                answer = client.generate(token_ids=[2, 3], max_tokens=1)
                assert answer.finish_reason in ("length", "stop")
                if i % 100 == 99 and dropped() > 0:
                    break
            assert dropped() > 0
            cluster.stop()
    finally:
        reader.close(0)
        context.term()


def test_a_collector_that_fails_costs_spans_which_are_counted(build, tiny_model, tmp_path):
    failing = Collector(status=400)
    exporter = Exporter("--otlp", failing.url)
    try:
        options = config_of(tmp_path / "c", exporter.endpoint, "http://127.0.0.1:9")
        with Cluster(build, tiny_model, tmp_path / "c", router=options) as cluster:
            cluster.client().generate(**ASK)
            wait_until(lambda: failing.bodies > 0, 10, "it is asked")
            cluster.stop()
        counts = exporter.stop()
    finally:
        exporter.kill()
        failing.close()
    assert counts["spans_failed"] > 0
    assert "spans_exported" not in counts


def test_what_is_no_trace_is_counted():
    exporter = Exporter()
    context = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(exporter.endpoint)
    try:
        good = {"trace_id": "1" * 32, "caller": "", "sampled": True,
                "spans": [["request", 1, 0, 0, 5, {}]]}
        source = {"service": "s", "instance": "i", "endpoint": ""}
        bad = [b"", b"\xc1", msgpack.packb(5), msgpack.packb([2, source, 0, good]),
               msgpack.packb([1, source, 0, {**good, "trace_id": "x"}]),
               msgpack.packb([1, source, 0, {**good, "spans": [["request", 0, 0, 0, 5, {}]]}]),
               msgpack.packb([1, source, 0, {**good, "spans": [["r", 1, 0, -1, 5, {}]]}]),
               msgpack.packb([1, source, 0, {**good, "spans": [["r", 1, 0, 0, 5, {"a": []}]]}]),
               msgpack.packb([1, source, 0, {**good, "spans": [["r", 1, 0, 0, 5, []]]}]),
               msgpack.packb([1, source, 0,
                              {**good, "spans": [["r", 1, 0, 0, 5, {"a": 1 << 63}]]}]),
               msgpack.packb([1, source, 0, {**good, "spans": []}]),
               msgpack.packb([1, source, 1 << 63, good]), msgpack.packb([1, source, -1, good]),
               msgpack.packb([1, source, float("inf"), good]), msgpack.packb([1, [1], 0, good]),
               msgpack.packb([1, source, 0, {**good, "trace_id": "1" * 5000}]),
               msgpack.packb([1, source, 0, {**good, "trace_id": "0" * 32}]),
               msgpack.packb([1, {}, 0, good])]
        for message in bad:
            sender.send(message)
        for endpoint in ("", "ftp://x", "http://x:99999", "http://", "x"):  # traces all the same
            sender.send(msgpack.packb([1, {**source, "endpoint": endpoint}, 0, good]))
        sender.close(5000)
        context.term()
        counts = exporter.stop()
    finally:
        exporter.kill()
    assert counts["malformed"] == len(bad)
    assert counts["traces"] == 5
