"""Takes the traces that routers send and exports them: to an OpenTelemetry collector, to a file.

    python -m chatloop.telemetry --listen tcp://127.0.0.1:7103 [--otlp URL] [--file PATH]

Routers name the collector themselves (observability.otel_endpoint); --otlp goes before it.
grpc://HOST:PORT, grpcs:// (with TLS) and a URL with port 4317 and no path are spoken to in gRPC,
any other one in OTLP over HTTP. A collector that is slow or down loses spans, which are counted;
nothing ever waits for it but its own thread.
docs/observability.md lists the spans.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgpack
import zmq

from .telemetry_spans import Malformed, Trace, otlp_json, read_trace, readable_spans
from .version import version_line

DEFAULT_LISTEN = "tcp://127.0.0.1:7103"
TRACES_WAITING_MAX = 1000  # at the socket
SPANS_WAITING_MAX = 8192  # for one collector
SPANS_PER_EXPORT = 512
COLLECTORS_MAX = 8
MESSAGE_BYTES_MAX = 4 << 20
EXPORT_TIMEOUT_S = 5.0
POLL_MS = 200
REPORT_S = 60.0
GRPC_PORT = 4317
GRPC_SCHEMES = {"grpc": "http", "grpcs": "https"}  # and what the SDK calls them


class Exporter(Protocol):
    def export(self, spans: Sequence[Any]) -> Any: ...
    def shutdown(self) -> None: ...


def otlp_exporter(endpoint: str) -> Exporter:
    """OpenTelemetry's own exporter for the endpoint. Raises ValueError for what is no URL."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https", *GRPC_SCHEMES) or not url.hostname:
        raise ValueError(f"{endpoint!r} is no http, https, grpc or grpcs URL")
    bare = url.path in ("", "/")
    if url.scheme in GRPC_SCHEMES or (url.port == GRPC_PORT and bare):
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        if not bare:
            raise ValueError(f"{endpoint!r}: gRPC has no path")
        scheme = GRPC_SCHEMES.get(url.scheme, url.scheme)
        exporter: Exporter = grpc.OTLPSpanExporter(
            endpoint=f"{scheme}://{url.netloc}", insecure=scheme == "http",
            timeout=EXPORT_TIMEOUT_S)
        return exporter
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

    whole = endpoint.rstrip("/") + "/v1/traces" if bare else endpoint
    return http.OTLPSpanExporter(endpoint=whole, timeout=EXPORT_TIMEOUT_S)


class Collector:
    """One collector: a bounded queue and the thread that empties it."""

    def __init__(self, exporter: Exporter, counts: Counter[str]) -> None:
        self._exporter = exporter
        self._counts = counts
        self._waiting: deque[Any] = deque()
        self._lock = threading.Condition()
        self._taken = 0  # spans that are being exported
        self._closing = False
        self._given_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def offer(self, spans: Sequence[Any]) -> None:
        """Never waits: what does not fit is dropped, whole traces at a time."""
        with self._lock:
            if len(self._waiting) + len(spans) > SPANS_WAITING_MAX:
                self._counts["spans_dropped"] += len(spans)
                return
            self._waiting.extend(spans)
            self._lock.notify()

    def close(self) -> None:
        """Lets the thread end once everything is exported."""
        with self._lock:
            self._closing = True
            self._lock.notify()

    def join(self, deadline_s: float) -> None:
        """After close: waits until then (time.monotonic()). What is left is dropped."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._lock:
            self._given_up = True
            self._counts["spans_dropped"] += len(self._waiting) + self._taken
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    break
                taken = [self._waiting.popleft()
                         for _ in range(min(SPANS_PER_EXPORT, len(self._waiting)))]
                self._taken = len(taken)
            self._export(taken)
        self._exporter.shutdown()

    def _export(self, spans: Sequence[Any]) -> None:
        try:
            done = self._exporter.export(spans).name == "SUCCESS"
        except Exception as error:  # whatever a collector makes the SDK raise
            print(f"chatloop.telemetry: {error!r}", file=sys.stderr)
            done = False
        with self._lock:
            self._taken = 0
            if not self._given_up:
                self._counts["spans_exported" if done else "spans_failed"] += len(spans)


class TraceFile:
    """One line of OTLP JSON a trace, as the collector's otlpjsonfile receiver reads it."""

    def __init__(self, path: Path, counts: Counter[str]) -> None:
        self._out = path.open("a", encoding="utf-8")
        self._counts = counts

    def write(self, spans: Sequence[Any]) -> None:
        try:
            self._out.write(otlp_json(spans) + "\n")
            self._out.flush()
            self._counts["spans_written"] += len(spans)
        except OSError:  # a full disk
            self._counts["spans_not_written"] += len(spans)


class Telemetry:
    def __init__(self, otlp: str | None, file: Path | None,
                 make: Callable[[str], Exporter] = otlp_exporter) -> None:
        self.counts: Counter[str] = Counter()
        self._otlp = otlp
        self._make = make
        self._collectors: dict[str, Collector | None] = {}  # None: cannot be one
        self._file = TraceFile(file, self.counts) if file else None
        if otlp:
            self._collectors[otlp] = Collector(make(otlp), self.counts)

    def on_message(self, message: bytes) -> None:
        try:
            trace = read_trace(msgpack.unpackb(message))
        except (ValueError, TypeError, Malformed, msgpack.exceptions.UnpackException):
            self.counts["malformed"] += 1
            return
        self.counts["traces"] += 1
        spans = readable_spans(trace)
        if self._file is not None:
            self._file.write(spans)
        collector = self._collector_of(trace)
        if collector is not None:
            collector.offer(spans)

    def close(self, timeout_s: float = EXPORT_TIMEOUT_S) -> None:
        collectors = [one for one in self._collectors.values() if one is not None]
        for collector in collectors:
            collector.close()
        deadline_s = time.monotonic() + timeout_s
        for collector in collectors:
            collector.join(deadline_s)

    def _collector_of(self, trace: Trace) -> Collector | None:
        endpoint = self._otlp or trace.endpoint
        if not endpoint:
            return None
        if endpoint not in self._collectors:
            if len(self._collectors) >= COLLECTORS_MAX:
                self.counts["spans_dropped"] += len(trace.spans)
                return None
            try:
                self._collectors[endpoint] = Collector(self._make(endpoint), self.counts)
            except Exception as error:  # no URL, or one that the SDK does not take
                print(f"chatloop.telemetry: {error}", file=sys.stderr)
                self._collectors[endpoint] = None
        return self._collectors[endpoint]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if importlib.util.find_spec("opentelemetry") is None:  # now, not at the first trace
        print("chatloop.telemetry: the OpenTelemetry SDK is missing: pip install '.[telemetry]'",
              file=sys.stderr)
        return 64
    try:
        telemetry = Telemetry(options.otlp, options.file)
    except Exception as error:  # a file or a URL that is none
        print(f"chatloop.telemetry: {error}", file=sys.stderr)
        return 64
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.setsockopt(zmq.RCVHWM, TRACES_WAITING_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.bind(options.listen)
    except zmq.ZMQError as error:
        print(f"chatloop.telemetry: {options.listen}: {error}", file=sys.stderr)
        return 65 if error.errno == zmq.EADDRINUSE else 64
    print(json.dumps({"listening": socket.getsockopt_string(zmq.LAST_ENDPOINT)}), flush=True)
    report_s = time.monotonic() + REPORT_S
    while not stopping.is_set():
        if socket.poll(POLL_MS):
            parts = socket.recv_multipart()
            telemetry.on_message(parts[0] if len(parts) == 1 else b"")
        if time.monotonic() >= report_s:
            report_s += REPORT_S
            print(json.dumps(telemetry.counts), flush=True)
    for _ in range(TRACES_WAITING_MAX):  # what was sent before the end
        if not socket.poll(POLL_MS):
            break
        parts = socket.recv_multipart()
        telemetry.on_message(parts[0] if len(parts) == 1 else b"")
    socket.close()
    context.term()
    telemetry.close()
    print(json.dumps(telemetry.counts), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chatloop.telemetry", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=version_line("chatloop.telemetry"))
    parser.add_argument("--listen", default=DEFAULT_LISTEN, help="bind; default: %(default)s")
    parser.add_argument("--otlp", metavar="URL", help="the collector, whatever routers say")
    parser.add_argument("--file", type=Path, help="append OTLP JSON there, a line a trace")
    return parser


if __name__ == "__main__":
    sys.exit(main())
