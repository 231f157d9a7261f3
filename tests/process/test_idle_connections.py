"""A thousand connections that say nothing, or begin to and stop, on every port of every process:
those who work are served as before, and no descriptor is left behind."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from answers import of_generation
from chatloop import Client
from cluster import Cluster, wait_until
from process_info import cpu_s, descriptors
from scrape import scrape

EACH = 1000
DESCRIPTORS = 16_000  # of this process, with some to spare
HANDSHAKE_S = 30.0  # ports of ZeroMQ give it 2 or 5 s
METRICS = ("--metrics", "127.0.0.1:*")
ASKED = {"token_ids": [2, 3, 4, 5], "ignore_eos": True, "max_tokens": 2000, "logprobs": 1,
         "temperature": 0.9, "seed": 12}

# What ZMTP 3 begins with: signature, version, mechanism, as-server, filler; then READY.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
OPENINGS = {
    "silence": b"",
    "a byte": GREETING[:1],
    "half a greeting": GREETING[:11],
    "a greeting": GREETING,
    "of another mechanism": GREETING.replace(b"NULL", b"CURV"),
    "of ZMTP 2": GREETING[:10] + b"\x01\x05\x00\x00",
    "half a READY": GREETING + READY[:20],
    "a READY without an end": GREETING + b"\x06" + (1 << 40).to_bytes(8, "big") + READY[2:],
    "half of a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "half of a request": b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Mo",
    "NUL": bytes(64),
}


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port


@pytest.fixture(scope="module")
def open_cluster(build, tiny_model, tmp_path_factory):
    """All ports that there are."""
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("ports"), own_sampler=True,
                 router=("--http", "127.0.0.1:*", *METRICS), stage=METRICS,
                 sampler=METRICS) as cluster:
        yield cluster
        cluster.stop()


def metrics_url(cluster: Cluster, name: str) -> str:
    return re.search(r"metrics (http://[\d.]+:\d+)",
                     "\n".join(cluster.processes[name].messages()))[1]


def ports(cluster: Cluster) -> dict[str, tuple[str, int]]:
    workers = ("stage-0", "stage-1", "sampler")
    found = {name: cluster.endpoints[name] for name in ("front", "ctrl", "result", "http")}
    found |= {name: cluster.listens_at(name) for name in workers}
    found |= {f"metrics of {name}": metrics_url(cluster, name) for name in ("router", *workers)}
    return {name: address(url) for name, url in found.items()}


@pytest.fixture
def undisturbed(open_cluster) -> Iterator[None]:
    """One is amid an answer while the test runs, another comes at its end: both get the right one.
    Then the processes are as before."""
    client = open_cluster.client()
    expected = of_generation(client.generate(**ASKED))
    before = {name: descriptors(p.pid) for name, p in open_cluster.processes.items()}
    with client.stream(**ASKED) as stream:
        next(stream)
        yield
        with Client(open_cluster.endpoints["front"], timeout_s=30.0) as late:
            assert of_generation(late.generate(**ASKED)) == expected
        for _ in stream:
            pass
        assert of_generation(stream.result) == expected
    assert client.status()["counters"]["routes_down"] == 0
    for name, process in open_cluster.processes.items():
        wait_until(lambda pid=process.pid, most=before[name]: descriptors(pid) <= most,
                   HANDSHAKE_S, f"{name} has its descriptors back")


@contextlib.contextmanager
def connections(places: list[tuple[str, int]], opening: bytes) -> Iterator[None]:
    """Held open meanwhile, whatever the other side does."""
    with contextlib.ExitStack() as stack:
        for place in places:
            connection = stack.enter_context(socket.create_connection(place, timeout=20))
            with contextlib.suppress(ConnectionError):  # it may hang up at once
                connection.sendall(opening)
        yield


@pytest.mark.parametrize("opening", OPENINGS)
def test_openings_that_end_nowhere(open_cluster, undisturbed, opening):
    with connections(list(ports(open_cluster).values()) * 10, OPENINGS[opening]):
        time.sleep(0.5)


def test_a_thousand_idle_ones_on_every_port(open_cluster, undisturbed):
    """All at once. They cost no CPU either."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"no more than {hard} descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    try:
        with connections(list(ports(open_cluster).values()) * EACH, b""):
            with Client(open_cluster.endpoints["front"], timeout_s=30.0) as amid:
                assert len(amid.generate(**ASKED).token_ids) == ASKED["max_tokens"]
                for name in ("router", "stage-0", "stage-1", "sampler"):
                    scrape(metrics_url(open_cluster, name))
                wait_until(lambda: amid.status()["running"] == 0, 60.0, "all is done")
            before_s = {p.pid: cpu_s(p.pid) for p in open_cluster.processes.values()}
            time.sleep(2.0)
            for pid, was_s in before_s.items():
                assert cpu_s(pid) - was_s < 1.0  # a loop that spins takes 2 s
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
