"""Collectors of OTLP, good and bad ones, and the exporter that sends to them."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from conftest import ROOT
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest, ExportTraceServiceResponse)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer, add_TraceServiceServicer_to_server)
from test_metrics import METRICS


class Received:
    """What a collector was sent, decoded by OpenTelemetry's own messages."""

    def __init__(self) -> None:
        self.spans: list = []  # (resource, span)
        self.bodies = 0

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [(resource.resource, span) for span in scope.spans]
        self.bodies += 1


class Collector(Received):
    """OTLP over HTTP. It keeps what it is sent only where it answers 200."""

    def __init__(self, status: int = 200, answer: bytes = b"") -> None:
        super().__init__()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if status == 200:
                    outer.take(ExportTraceServiceRequest.FromString(body))
                else:
                    outer.bodies += 1
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class GrpcCollector(Received):
    """OTLP over gRPC: on a port of the system's, or on its own and an address that is drawn."""

    def __init__(self, status: grpc.StatusCode = grpc.StatusCode.OK, *,
                 own_port: bool = False) -> None:
        super().__init__()
        outer = self

        class Servicer(TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                if status is not grpc.StatusCode.OK:
                    outer.bodies += 1
                    context.abort(status, "as the test wants it")
                outer.take(request)
                return ExportTraceServiceResponse()

        self.server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(Servicer(), self.server)
        host, port = "127.0.0.1", 0
        if own_port:
            host, port = ".".join(["127", *(str(random.randrange(1, 255)) for _ in "123")]), 4317
        bound = self.server.add_insecure_port(f"{host}:{port}")
        self.url = f"{'http' if own_port else 'grpc'}://{host}:{bound}"
        self.server.start()

    def close(self) -> None:
        self.server.stop(None).wait()


class RawCollector:
    """Takes connections and what comes on them, and answers each with `answer`, or never."""

    def __init__(self, answer: bytes, scheme: str = "http") -> None:
        self.bodies = 0  # connections on which something came
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"{scheme}://127.0.0.1:{self._server.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
                self._open.append(peer)
                if peer.recv(1 << 16):
                    self.bodies += 1
                if self._answer:
                    peer.sendall(self._answer)
                    peer.close()
            except OSError:
                if self._server.fileno() < 0:
                    return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.thread.join()
        for peer in self._open:
            peer.close()


class Exporter:
    """python -m chatloop.telemetry."""

    def __init__(self, *options: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatloop.telemetry", "--listen", "tcp://127.0.0.1:*",
             *map(str, options)], env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.endpoint = json.loads(self.process.stdout.readline())["listening"]

    def stop(self) -> dict[str, int]:
        """What it counted."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return json.loads(out.splitlines()[-1])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def config_of(folder: Path, exporter: str, collector: str, ratio: float = 1.0) -> list[str]:
    """Options of a router that sends its traces there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "router-traces.yaml"
    file.write_text(f"observability:\n  otel_endpoint: {collector}\n  exporter: {exporter}\n"
                    f"  trace_ratio: {ratio}\n")
    return ["--config", str(file), *METRICS]


def values_of(span) -> dict:
    """The attributes of a span or a resource."""
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
