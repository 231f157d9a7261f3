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

import argparse
import contextlib
import http.server
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop.bench.metrics import Outcome  # noqa: E402
from cluster import Cluster  # noqa: E402
from process_info import cpu_s  # noqa: E402
from serving import OurFront  # noqa: E402

VARIANTS = ("off", "metrics", "all")
PROMPT_TOKENS = 100


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


class Variant:
    def __init__(self, name: str, cluster: Cluster, exporter: int | None) -> None:
        self.name, self._cluster = name, cluster
        self._pids = [process.pid for process in cluster.processes.values()]
        if exporter is not None:
            self._pids.append(exporter)
        found = [re.search(r"metrics (http://[\d.]+:\d+)", "\n".join(process.messages()))
                 for process in cluster.processes.values()]
        self._urls = [f"{one[1]}/metrics" for one in found if one is not None]
        self._front = OurFront(cluster.endpoints["front"])

    def round(self, streams: int, max_tokens: int, number: int) -> dict[str, float]:
        requests = [{"token_ids": [1000 + (7 * i + 131 * (stream + 100 * number)) % 20000
                                   for i in range(PROMPT_TOKENS)],
                     "max_tokens": max_tokens, "ignore_eos": True} for stream in range(streams)]
        scraper = Scraper(self._urls)
        scraper.start()
        before_s, began = self._cpu_s(), time.monotonic()
        outcomes: list[Outcome] = self._front.closed_loop(requests, streams)
        took_s, spent_s = time.monotonic() - began, self._cpu_s() - before_s
        scraper.stop()
        assert self.name == "off" or scraper.pages >= len(self._pids) - 1
        tokens = sum(len(outcome.piece_s) for outcome in outcomes)
        return {"tokens/s": tokens / took_s, "CPU us/token": 1e6 * spent_s / tokens}

    def signal(self, number: int) -> None:
        for process in self._cluster.processes.values():
            process.signal(number)

    def _cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self._pids)


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, \
            variants(build, models.split_cached(options.gguf, 2), Path(folder)) as found:
        for variant in found:
            variant.round(options.streams, options.max_tokens, 1000)  # learns its times
        for number in range(options.rounds):
            shift = number % len(found)
            for variant in found[shift:] + found[:shift]:
                row = variant.round(options.streams, options.max_tokens, number)
                rows[variant.name].append(row)
                print(f"{number} {variant.name:8}" + "".join(f"  {what} {value:9.1f}"
                                                             for what, value in row.items()),
                      flush=True)
    assert Collector.spans_in > 0, "no trace came to the collector"
    for name in VARIANTS[1:]:
        for what in rows["off"][0]:
            ratios = [row[what] / off[what]
                      for row, off in zip(rows[name], rows["off"], strict=True)]
            print(f"{name:8} {what:13} over off: median {statistics.median(ratios):.4f} "
                  f"({min(ratios):.4f} to {max(ratios):.4f})")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
