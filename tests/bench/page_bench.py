"""How soon the page is painted while the router is at work.

    CHATLOOP_BUILD=build scripts/python.sh tests/bench/page_bench.py --gguf FILE.gguf \
        [--visits 9] [--streams 32]

32 streams over ZeroMQ; then a new context of Chromium (Debian's) for every visit, so that nothing
is cached. First contentful paint as the browser tells it, from the start of the navigation, in ms:
median and maximum, and of each visit where the time went: when each file was asked for, how long
its first byte took, and how long from there its last. --streams 0: without load, for what the
browser takes by itself. Nothing else may use the machine.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop.bench.generator import peers, serve_all  # noqa: E402
from cluster import Cluster, wait_until  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from our_engine import request  # noqa: E402

FILES = """() => performance.getEntriesByType('navigation')
    .concat(performance.getEntriesByType('resource'))
    .filter((e) => !e.name.endsWith('.json') && e.responseEnd > 0)
    .map((e) => [e.name.split('/').at(-1) || '/', e.requestStart, e.responseStart,
                 e.responseEnd])"""
PAINT = ("performance.getEntriesByName('first-contentful-paint').map((entry) => "
         "entry.startTime)[0]")


def load(front: str, streams: int, done: threading.Event) -> None:
    """So many answers at any time until `done`; what runs then is given up."""
    numbers = itertools.count()
    with peers(front) as clients:

        def start_due(_: float) -> None:
            while sum(peer.running for peer in clients) < streams:
                peer = min(clients, key=lambda peer: peer.running)
                peer.start(request(100, 128, next(numbers)))

        serve_all(clients, start_due, until=done.is_set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--visits", type=int, default=9)
    parser.add_argument("--streams", type=int, default=32)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(build, models.split_cached(options.gguf, 2), Path(folder),
                    router=["--http", "127.0.0.1:0"]) as cluster, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"),
                                             args=["--no-sandbox"])
        streams = options.streams
        done = threading.Event()
        worker = threading.Thread(target=load, args=(cluster.endpoints["front"], streams, done))
        worker.start()
        watch = cluster.client()
        wait_until(lambda: watch.status()["running"] >= streams // 2, 60, "they run")
        paints_ms: list[float] = []
        while len(paints_ms) < options.visits:
            context = browser.new_context()
            page = context.new_page()
            page.goto(cluster.endpoints["http"] + "/")
            page.wait_for_function(PAINT)
            paints_ms.append(page.evaluate(PAINT))
            print(f"paint {paints_ms[-1]:.0f}:", ", ".join(
                f"{name} at {asked:.0f} first {first - asked:.0f} last {last - first:.0f}"
                for name, asked, first, last in page.evaluate(FILES)), flush=True)
            context.close()
        print(f"{len(paints_ms)} visits, {streams} streams, first paint: median "
              f"{statistics.median(paints_ms):.0f} ms, maximum {max(paints_ms):.0f} ms")
        done.set()
        worker.join()
        browser.close()
        cluster.stop()


if __name__ == "__main__":
    main()
