"""Traces in gRPC, of requests amid a fault, and beside a collector that never answers."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from cluster import Cluster, wait_until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from test_failover import Askers
from test_telemetry import ASK, Exporter, config_of

ENDED_S = 60.0
NAME, ID, PARENT, START_US, END_US = range(5)  # of a span in TRACE, docs/protocol.md


class GrpcCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """OpenTelemetry's own service. Its port says that it is gRPC, so the address is drawn."""

    def __init__(self) -> None:
        self.spans: list = []
        self.server = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        host = ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])
        assert self.server.add_insecure_port(f"{host}:4317") == 4317
        self.url = f"http://{host}:4317"
        self.server.start()

    def Export(self, request: ExportTraceServiceRequest,
               context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return ExportTraceServiceResponse()


@pytest.fixture
def grpc_collector() -> Iterator[GrpcCollector]:
    made = GrpcCollector()
    yield made
    made.server.stop(None).wait()


def test_a_trace_reaches_a_collector_in_grpc(build, tiny_model, tmp_path, grpc_collector):
    exporter = Exporter()
    try:
        options = config_of(tmp_path / "c", exporter.endpoint, grpc_collector.url)
        with Cluster(build, tiny_model, tmp_path / "c", router=options) as cluster:
            client = cluster.client()
            client.generate(request_id="one", **ASK)
            shown = client.trace("one")["spans"]
            wait_until(lambda: len(grpc_collector.spans) == len(shown), ENDED_S, "it arrives")
            cluster.stop()
    finally:
        counts = exporter.stop()
    assert [span.name for span in grpc_collector.spans] == [span[0] for span in shown]
    assert counts["spans_exported"] == len(shown)


def test_the_phases_of_requests_amid_a_fault_add_up(build, tiny_model, tmp_path):
    """A stage is killed and comes back: the waterfall of each request has its replay."""
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        askers = Askers(cluster, 8, 2000)
        cluster.restart("stage-0")
        askers.ends()
        watch = cluster.client()
        replays = 0
        for request in ended_requests(cluster):
            root, *others = watch.trace(request)["spans"]
            phases = [span for span in others if span[PARENT] == root[ID]]
            together = sum(span[END_US] - span[START_US] for span in phases)
            duration_us = root[END_US] - root[START_US]
            assert abs(together - duration_us) <= 0.02 * duration_us
            replays += any(span[NAME] == "replay" for span in phases)
        assert replays == 8
        cluster.stop()


def ended_requests(cluster: Cluster) -> set[str]:
    """Their ids, from the router's log."""
    found = set()
    for line in cluster.processes["router"].log.read_text().splitlines():
        record = json.loads(line)
        if record["message"].startswith("done: "):
            found.add(record["span"]["request_id"])
    return found


def test_a_collector_that_never_answers_holds_nobody_up(build, tiny_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        exporter = Exporter("--otlp", f"http://127.0.0.1:{mute.getsockname()[1]}")
        try:
            options = config_of(tmp_path / "c", exporter.endpoint, "http://127.0.0.1:9")
            with Cluster(build, tiny_model, tmp_path / "c", router=options) as cluster:
                client = cluster.client()
                for _ in range(20):
                    assert client.generate(**ASK).usage.completion_tokens == 30
                cluster.stop()
            counts = exporter.stop()
        finally:
            exporter.kill()
    assert counts["traces"] == 20
    assert "spans_exported" not in counts
