"""The terminal views in a real terminal (tmux), of a real cluster."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster import wait_until
from conftest import ROOT

SEEN_S = 30.0


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, width: int, height: int, command: list[str]) -> None:
        self._name = f"chatloop-{uuid.uuid4().hex}"
        line = f"PYTHONPATH={ROOT / 'python'} TERM=screen-256color {shlex.join(command)}; cat"
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), line)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-L", self._name, "-f", "/dev/null", *words],
                              capture_output=True, text=True, timeout=10, check=True)
        return done.stdout

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(tiny_cluster) -> Iterator:
    made: list[Terminal] = []

    def start(width: int, *arguments: str) -> Terminal:
        made.append(Terminal(width, 30, [sys.executable, "-m", "chatloop", *arguments,
                                         "--endpoint", tiny_cluster.endpoints["front"]]))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("width", [80, 200])
def test_top_shows_every_stage_and_ends_with_ctrl_c(terminal, tiny_cluster, width):
    top = terminal(width, "top", "--interval", "0.2", "--requests")
    for name in ("stage-0", "stage-1", "sampler"):
        wait_until(lambda n=name: n in top.text(), SEEN_S, f"{name} is shown")
    stopping = threading.Event()

    def ask() -> None:
        client = tiny_cluster.client()
        for i in itertools.takewhile(lambda _: not stopping.is_set(), itertools.count()):
            client.generate(request_id=f"seen-{i}", token_ids=[2, 3], max_tokens=2000,
                            ignore_eos=True)

    with ThreadPoolExecutor(1) as pool:  # one answer after another: one alone may end unseen
        asking = pool.submit(ask)
        try:
            wait_until(lambda: re.search(r"(?s)1 running.*seen-\d+\s+decode", top.text()), SEEN_S,
                       "a request is shown")
        finally:
            stopping.set()
        asking.result()
    top.press("C-c")
    wait_until(lambda: "stage-0" not in top.text(), SEEN_S, "the screen is as it was")
    assert "Traceback" not in top.text()


def test_trace_and_top_of_a_real_request(tiny_cluster, terminal):
    client = tiny_cluster.client()
    client.generate(request_id="traced", token_ids=[2, 3, 4], max_tokens=40, ignore_eos=True)
    drawn = terminal(120, "trace", "traced")
    wait_until(lambda: "sampling" in drawn.text(), SEEN_S, "the waterfall")
    for name in ("request", "tokenization", "queue", "prefill stage 0", "decode stage 1"):
        assert name in drawn.text()
    ended = subprocess.run(
        [sys.executable, "-m", "chatloop", "top", "--once", "--json", "--interval", "0.2",
         "--endpoint", tiny_cluster.endpoints["front"]],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")}, capture_output=True, text=True,
        timeout=30, check=True)
    shown = json.loads(ended.stdout)
    assert [row["worker"] for row in shown["stages"]] == ["stage-0", "stage-1", "sampler"]
    assert all(row["memory_bytes"] > 1 << 20 for row in shown["stages"])
    assert shown["header"]["routes_up"] == 1


def test_the_phases_of_a_request_add_up(tiny_cluster):
    client = tiny_cluster.client()
    answer = client.generate(request_id="sum", token_ids=[2, 3, 4], max_tokens=300, ignore_eos=True)
    spans = client.trace("sum")["spans"]
    root = spans[0]
    phases = [span for span in spans if span[2] == root[1]]
    duration_us = root[4] - root[3]
    assert abs(sum(end - start for *_, start, end, _ in phases) - duration_us) <= 0.02 * duration_us
    assert answer.usage.completion_tokens == 300
    decode = next(span for span in phases if span[0] == "decode")
    assert decode[4] - decode[3] > 0.5 * duration_us
