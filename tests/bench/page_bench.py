"""How soon the page is painted while the router is at work.

    CHATLOOP_BUILD=build scripts/python.sh tests/bench/page_bench.py --gguf FILE.gguf [--visits 9]

32 streams over ZeroMQ; then a new context of Chromium (Debian's) for every visit, so that nothing
is cached. First contentful paint as the browser tells it, from the start of the navigation, in ms:
median and maximum. Nothing else may use the machine.
"""

from __future__ import annotations

import argparse
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
from cluster import Cluster, wait_until  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from our_engine import request  # noqa: E402
from serving import OurFront  # noqa: E402

STREAMS = 32
PAINT = ("performance.getEntriesByName('first-contentful-paint').map((entry) => "
         "entry.startTime)[0]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--visits", type=int, default=9)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(build, models.split_cached(options.gguf, 2), Path(folder),
                    router=["--http", "127.0.0.1:0"]) as cluster, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"),
                                             args=["--no-sandbox"])
        load = [request(100, 128, i) for i in range(STREAMS * options.visits)]
        worker = threading.Thread(
            target=OurFront(cluster.endpoints["front"]).closed_loop, args=(load, STREAMS))
        worker.start()
        watch = cluster.client()
        wait_until(lambda: watch.status()["running"] >= STREAMS // 2, 60, "they run")
        paints_ms: list[float] = []
        while len(paints_ms) < options.visits and worker.is_alive():
            context = browser.new_context()
            page = context.new_page()
            page.goto(cluster.endpoints["http"] + "/")
            page.wait_for_function(PAINT)
            paints_ms.append(page.evaluate(PAINT))
            context.close()
        print(f"{len(paints_ms)} visits under load, first paint: median "
              f"{statistics.median(paints_ms):.0f} ms, maximum {max(paints_ms):.0f} ms")
        worker.join()
        browser.close()
        cluster.stop()


if __name__ == "__main__":
    main()
