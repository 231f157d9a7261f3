"""The page over a long time, and many of it at once."""

from __future__ import annotations

import http.client
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from playwright.sync_api import expect
from scrape import fetch
from test_failover import Askers
from test_page import SEEN_MS, browser, served, visit  # noqa: F401  (fixtures)

# A week of a picture a minute, as fast as the page takes them. In each a request more, one event
# more, in every tenth another route, and a worker that has left for another.
WEEK = """(base) => {
  let number = 0;
  window.pictures = () => number;
  window.fetch = async () => {
    const now = structuredClone(base);
    number += 1;
    now.uptime_us += number * 60e6;
    now.counters.requests += number;
    now.counters.tokens_committed += 100 * number;
    now.events = [{ number, age_us: 1000, warning: number % 3 === 0,
                    text: `event ${number} ${'x'.repeat(200)}` }];
    const generation = 1 + Math.floor(number / 10);
    for (const route of now.routes) route.generation = generation;
    now.workers.push({ ...structuredClone(now.workers[0]), name: `guest-${generation}` });
    return new Response(JSON.stringify(now));
  };
  const channel = new MessageChannel();
  const waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  window.setTimeout = (run) => { waiting.push(run); channel.port2.postMessage(0); };
}"""
WEEK_PICTURES = 7 * 24 * 60
GROWTH_BYTES_MAX = 512 << 10
PAGES = 100


def test_a_week_of_events_does_not_grow_it(visit, served):  # noqa: F811
    seen = visit()
    page = seen.page
    expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    page.clock.install()  # what is gone is shown for a minute: of the page's own time
    chrome = seen.context.new_cdp_session(page)
    chrome.send("Performance.enable")

    def held() -> tuple[float, float]:
        """Bytes of the heap and nodes of the document, after everything unused was freed."""
        chrome.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"]
                   for one in chrome.send("Performance.getMetrics")["metrics"]}
        return metrics["JSHeapUsedSize"], metrics["Nodes"]

    page.evaluate(WEEK, json.loads(fetch(served.endpoints["http"], "/status.json")))
    early: tuple[float, float] | None = None
    pictures = 0
    while pictures < WEEK_PICTURES:
        page.clock.fast_forward(60_000)
        pictures = page.evaluate("pictures()")
        if early is None and pictures > WEEK_PICTURES // 10:
            early = held()
    late = held()
    assert early is not None
    assert late[0] - early[0] < GROWTH_BYTES_MAX, (early, late)
    assert late[1] < 1.5 * early[1], (early, late)
    assert page.locator("#events li").count() <= 30
    assert seen.errors == []


def test_a_hundred_pages_and_sixteen_streams(served):  # noqa: F811
    """Each asks once a second, as a page does; the answers go on, and the threads stay three."""
    address = urlsplit(served.endpoints["http"])
    askers = Askers(served, 16, 2000)
    pages = [http.client.HTTPConnection(address.hostname, address.port, timeout=20)
             for _ in range(PAGES)]

    def looks(page: http.client.HTTPConnection) -> int:
        seen = 0
        for _ in range(3):
            page.request("GET", "/status.json")
            seen += len(json.loads(page.getresponse().read())["workers"]) == 3
            time.sleep(1.0)
        page.close()
        return seen

    with ThreadPoolExecutor(PAGES) as pool:
        assert list(pool.map(looks, pages)) == [3] * PAGES
    assert all(answer is not None and len(answer.token_ids) == 2000 for answer in askers.ends())
    threads = os.listdir(f"/proc/{served.processes['router'].pid}/task")
    assert len(threads) == 3
