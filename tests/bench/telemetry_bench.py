"""What metrics, logs and traces cost at 32 streams.

    CHATLOOP_BUILD=build tests/bench/telemetry_bench.py --gguf FILE.gguf [--rounds 5]
                         [--streams 32] [--max-tokens 64] [--json FILE]

Three clusters of two stages are up at once and take turns, in another order each round: `off`
(no metrics, log level error), `metrics` (every actor is scraped once a second), `all` (also the
log at level info, and traces of one request in ten through `python -m chatloop.telemetry` to a
collector that says yes). A row a round: tokens/s, and CPU time per token of all processes of the
cluster, the exporter's too. At the end: each variant's median over `off`, by rounds. The CPU time
is what the machine's noise moves least. Nothing else may use the machine.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from cluster import Cluster  # noqa: E402

from side_by_side import Row, Side, print_ratios, take_turns, turns_parser  # noqa: E402

VARIANTS = ("off", "metrics", "all")

class Scraper(threading.Thread):
    """Reads every page once a second, as Prometheus would at its shortest usual interval."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__(daemon=True)
        self._urls, self._over = urls, threading.Event()
        self.pages = 0

    def run(self) -> None:
        while True:
            for url in self._urls:
                with urllib.request.urlopen(url, timeout=10) as response:
                    response.read()
                self.pages += 1
            if self._over.wait(1.0):
                return

    def stop(self) -> None:
        self._over.set()
        self.join()


class Variant(Side):
    def __init__(self, name: str, cluster: Cluster, exporter: int | None) -> None:
        super().__init__(name, cluster, [] if exporter is None else [exporter])
        found = [re.search(r"metrics (http://[\d.]+:\d+)", "\n".join(process.messages()))
                 for process in cluster.processes.values()]
        self._urls = [f"{one[1]}/metrics" for one in found if one is not None]

    def round(self, number: int, streams: int, max_tokens: int) -> Row:
        scraper = Scraper(self._urls)
        scraper.start()
        row = super().round(number, streams, max_tokens)
        scraper.stop()
        assert self.name == "off" or scraper.pages >= len(self.cluster.processes)
        return row

    def signal(self, number: int) -> None:
        for process in self.cluster.processes.values():
            process.signal(number)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans in OTLP over HTTP."""

    spans_in = 0  # requests, of all

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Collector.spans_in += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def collecting() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def exporting(folder: Path) -> Iterator[tuple[str, int]]:
    at = f"ipc://{folder / 'exporter'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "chatloop.telemetry", "--listen", at],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, stdout=subprocess.DEVNULL)
    try:
        yield at, process.pid
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def variants(build: Path, model: Path, folder: Path) -> Iterator[list[Variant]]:
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collecting())
        exporter, pid = stack.enter_context(exporting(folder))
        metrics = ["--metrics", "127.0.0.1:0"]
        level = folder / "level.yaml"
        level.write_text("observability:\n  log_level: info\n")
        quiet = ["--config", str(level)]
        traces = folder / "router.yaml"
        traces.write_text(f"observability:\n  otel_endpoint: {collector}\n"
                          f"  exporter: {exporter}\n  trace_ratio: 0.1\n")
        options = {"off": (quiet, quiet), "metrics": (quiet + metrics, quiet + metrics),
                   "all": (["--config", str(traces), *metrics], metrics)}
        found = []
        for name in VARIANTS:
            router, stage = options[name]
            cluster = stack.enter_context(
                Cluster(build, model, folder / name, router=router, stage=stage))
            found.append(Variant(name, cluster, pid if name == "all" else None))
            stack.callback(cluster.stop)
        # Only now, since an actor logs where its metrics are.
        level.write_text("observability:\n  log_level: error\n")
        for variant in found[:2]:
            variant.signal(signal.SIGHUP)
        yield found


def main() -> None:
    parser = turns_parser(__doc__, rounds=5, max_tokens=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    with tempfile.TemporaryDirectory() as folder, \
            variants(build, models.split_cached(options.gguf, 2), Path(folder)) as found:
        rows = take_turns(found, options)
    assert Collector.spans_in > 0, "no trace came to the collector"
    print_ratios(rows, "off")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
