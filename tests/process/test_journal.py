"""Resumable streams that outlive the router's process (docs/http.md, `http.journal_dir`)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import READY_TIMEOUT_S, Cluster, wait_until
from event_reader import EventReader, again, begin, id_of, plain, undisturbed
from http_peer import TIMEOUT_S, HttpPeer
from scrape import scrape

TEXT = {"prompt": "Once upon a time", "max_tokens": 300, "ignore_eos": True, "temperature": 0.8,
        "seed": 5}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", TEXT),
    ("/v1/completions", {**TEXT, "logprobs": 2, "echo": True}),
    ("/v1/completions", {**TEXT, "n": 3, "max_tokens": 60}),
    ("/execute", {**TEXT, "temperature": 0}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me of the sea."}],
                              "max_tokens": 80, "temperature": 0, "min_tokens": 80}),
    ("/execute", {"prompt": "My list: ", "regex": "([a-z]{3,9}, ){40}end", "max_tokens": 200,
                  "seed": 3}),
]


def key_of(file: Path) -> str:
    """Of the file's head: the stream's."""
    return re.search(rb'"key":"([0-9a-f]{32})"', file.read_bytes())[1].decode()


class Journaled(Cluster):
    """A cluster whose router comes back at its addresses, with its journal."""

    def __init__(self, build: Path, model: Path, folder: Path) -> None:
        self.journal = folder / "journal"
        super().__init__(build, model, folder, router=[
            "--http", "127.0.0.1:*", "--metrics", "127.0.0.1:*", *self._options()])

    def _options(self) -> list[str]:
        return ["--journal-dir", str(self.journal), "--drain-timeout-secs", "0.5"]

    @property
    def url(self) -> str:
        return self.endpoints["http"]

    def stop_router(self, number: int) -> int:
        """Its exit code."""
        router = self.processes.pop("router")
        router.signal(number)
        return router.wait(READY_TIMEOUT_S)

    def begin_router(self) -> None:
        """At the addresses of the one before it."""
        file = self._folder / "again.json"
        file.unlink(missing_ok=True)
        at = {name: url.removeprefix("http://") for name, url in self.endpoints.items()}
        ports = [word for name in at for word in (f"--{name}", at[name])]
        self.start("router", "chatloop-router", "--endpoints-file", file, *ports,
                   *self._options())
        wait_until(file.exists, READY_TIMEOUT_S, "the router is back")

    def files(self) -> list[Path]:
        return sorted(self.journal.glob("*.stream"))

    def delete_all(self) -> None:
        with HttpPeer(self.url) as peer:
            for file in self.files():
                assert peer.ask("DELETE", "/v1/streams/" + key_of(file)).status == 204
        assert self.files() == []

    def counted(self, name: str) -> float:
        return scrape(self.endpoints["metrics"]).value(name)


@pytest.fixture(scope="module")
def shared(build, smollm2, tmp_path_factory) -> Iterator[Journaled]:
    with Journaled(build, smollm2(2), tmp_path_factory.mktemp("journal")) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture
def cluster(shared) -> Journaled:
    """Without streams of another test."""
    shared.delete_all()
    return shared


def by_choice(events: list[str], choices: int) -> list[str]:
    """Choices come in another order each time; the events of each do not."""
    data = [event[event.index("data: "):] for event in events]
    return [plain([text for text in data if f'"index":{choice},' in text])
            for choice in range(choices)]


class Reading:
    """A stream and what has been read of it."""

    def __init__(self, url: str, path: str, body: dict[str, Any]) -> None:
        self._url = url
        self.reader = begin(url, body, path)
        self.address = self.reader.headers["content-location"]
        self.events: list[str] = []
        self.has_ended = False

    def read(self, count: int) -> None:
        for _ in range(count):
            event = self.reader.event()
            assert event is not None
            self.events.append(event)

    def lose(self) -> None:
        """What has arrived is read; then the connection is gone, if the answer was not complete."""
        with self.reader, contextlib.suppress(ConnectionError):
            self.events += self.reader.events()
        self.has_ended = self.reader.whole

    def take_up(self) -> None:
        """503: what it has seen comes again, and has not yet."""
        def is_there() -> bool:
            self.reader = again(self._url, self.address, id_of(self.events[-1]))
            if self.has_ended:
                return self.reader.status == 204
            assert self.reader.status in (200, 503)
            return self.reader.status == 200

        wait_until(is_there, TIMEOUT_S, "the stream is as far as its client")

    def finish(self) -> list[str]:
        with self.reader:
            if not self.has_ended:
                self.events += self.reader.events()
                assert self.reader.whole
        return self.events


def stop_amid(cluster: Journaled, readings: list[Reading], number: int) -> int:
    """The router's exit code; not all of the answers had ended."""
    code = cluster.stop_router(number)
    for reading in readings:
        reading.lose()
    assert not all(reading.has_ended for reading in readings)
    return code


def go_on(cluster: Journaled, readings: list[Reading]) -> None:
    cluster.begin_router()
    for reading in readings:
        reading.take_up()


def assert_same(readings: list[Reading], right: list[list[str]]) -> None:
    for reading, whole, (path, body) in zip(readings, right, ASKED, strict=True):
        events = reading.finish()
        assert len(events) == len(whole), path
        if (n := body.get("n", 1)) > 1:
            assert by_choice(events, n) == by_choice(whole, n)
        else:
            assert plain(events) == plain(whole), path


@pytest.fixture(scope="module")
def right(shared) -> list[list[str]]:
    return [undisturbed(shared.url, body, path) for path, body in ASKED]


def test_streams_go_on_behind_a_router_that_was_killed_twice(cluster, right):
    """Text, log-probabilities, choices, /execute, chat, a form: all at once, and each is the
    undisturbed stream, byte for byte but for its id and time, which it keeps."""
    readings = [Reading(cluster.url, path, body) for path, body in ASKED]
    for reading in readings:
        reading.read(4)
    for _ in range(2):
        stop_amid(cluster, readings, signal.SIGKILL)
        go_on(cluster, readings)
        for reading in readings:
            if not reading.has_ended:
                reading.read(1)
    assert_same(readings, right)
    for reading in readings:
        ids = {event.split('"id":"')[1].split('"')[0] for event in reading.events
               if '"id":"' in event and '"object"' in event}
        assert len(ids) <= 1
    assert cluster.counted("coordinator_journal_restored_total") == len(ASKED)


def test_streams_go_on_behind_a_router_that_was_stopped_in_order(cluster, right):
    """Its drain is too short for them: they are left to the next one, and none ends with an
    error."""
    readings = [Reading(cluster.url, path, body) for path, body in ASKED]
    for reading in readings:
        reading.read(2)
    assert stop_amid(cluster, readings, signal.SIGTERM) == 0
    go_on(cluster, readings)
    assert_same(readings, right)


def test_an_answer_that_had_ended_is_there_behind_a_restart_and_a_deleted_one_is_not(cluster):
    with begin(cluster.url, TEXT) as reader:
        whole = reader.events()
        address = reader.headers["content-location"]
    with begin(cluster.url, TEXT) as reader:
        reader.event()
        deleted = reader.headers["content-location"]
        with HttpPeer(cluster.url) as peer:
            assert peer.ask("DELETE", deleted).status == 204
    assert len(cluster.files()) == 1
    assert cluster.files()[0].stat().st_mode & 0o777 == 0o600
    assert cluster.journal.stat().st_mode & 0o777 == 0o700
    cluster.stop_router(signal.SIGKILL)
    cluster.begin_router()
    with again(cluster.url, address, id_of(whole[9])) as late:
        assert late.events() == whole[10:] and late.whole
    with HttpPeer(cluster.url) as peer:
        assert peer.get(deleted).status == 404


def test_nobody_reads_meanwhile(cluster):
    """The answer goes on without its client, which comes back when it has ended."""
    right = undisturbed(cluster.url, TEXT)
    reading = Reading(cluster.url, "/v1/completions", TEXT)
    reading.read(5)
    stop_amid(cluster, [reading], signal.SIGKILL)
    cluster.begin_router()
    wait_until(lambda: cluster.counted("coordinator_requests_running") == 1, TIMEOUT_S, "it runs")
    wait_until(lambda: cluster.counted("coordinator_requests_running") == 0, TIMEOUT_S, "it ended")
    reading.take_up()
    assert plain(reading.finish()) == plain(right)


@pytest.mark.parametrize("where", ["tail", "cut", "head"])
def test_a_damaged_file_costs_nothing_but_time_or_is_reported(cluster, where):
    """Of the tail: what it said is computed again, and a client that has seen more is served. Of
    the request itself: that stream is lost, no other."""
    right = undisturbed(cluster.url, TEXT)
    readings = [Reading(cluster.url, "/v1/completions", TEXT) for _ in range(2)]
    for reading in readings:
        reading.read(30)
    stop_amid(cluster, readings, signal.SIGKILL)
    damaged = next(file for file in cluster.files()
                   if readings[0].address.endswith(key_of(file)))
    data = bytearray(damaged.read_bytes())
    if where == "cut":
        del data[len(data) // 2:]
    else:
        data[-300 if where == "tail" else 20] ^= 1
    damaged.write_bytes(data)
    cluster.begin_router()
    if where == "head":
        with again(cluster.url, readings[0].address, id_of(readings[0].events[-1])) as lost:
            assert lost.status == 404
        assert not damaged.exists()
        assert cluster.counted("coordinator_journal_lost_total") == 1
        readings.pop(0)
    for reading in readings:
        reading.take_up()
        assert plain(reading.finish()) == plain(right)
    log = " ".join(cluster.processes["router"].messages())
    assert ("holds no stream" if where == "head" else "are damaged") in log


def test_a_full_disk(build, smollm2, tmp_path):
    """A new stream is refused and says why; one that runs goes on to its end, and also behind a
    restart, from what was written."""
    if os.geteuid() != 0:
        pytest.skip("a small tmpfs needs root")
    journal = tmp_path / "journal"
    journal.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", journal], check=True)
    try:
        with Journaled(build, smollm2(2), tmp_path) as cluster:
            full_disk(cluster)
            cluster.stop()
    finally:
        subprocess.run(["umount", journal], check=True)


def full_disk(cluster: Journaled) -> None:
    body = {**TEXT, "logprobs": 5}
    right = undisturbed(cluster.url, body)
    cluster.delete_all()
    reading = Reading(cluster.url, "/v1/completions", body)
    reading.read(10)
    (cluster.journal / "filler").write_bytes(bytes(8192))
    with contextlib.suppress(OSError), (cluster.journal / "filler").open("ab", 0) as filler:
        while filler.write(bytes(4096)):
            pass
    wait_until(lambda: cluster.counted("coordinator_journal_write_errors_total") > 0, TIMEOUT_S,
               "the disk is full")
    with EventReader(cluster.url, "POST", "/v1/completions",
                     {**body, "stream": True, "stream_options": {"resumable": True}}) as refused:
        assert refused.status == 503 and "retry-after" in refused.headers
        assert "No space left on device" in refused.rest()
    with EventReader(cluster.url, "POST", "/v1/completions",
                     {**body, "max_tokens": 5, "stream": True}) as plain_stream:
        assert plain_stream.status == 200 and plain_stream.events()  # asks for no journal
    reading.read(20)
    said = " ".join(cluster.processes["router"].messages())
    assert said.count("cannot be written: No space left on device") == 1
    stop_amid(cluster, [reading], signal.SIGKILL)
    (cluster.journal / "filler").unlink()
    go_on(cluster, [reading])
    assert plain(reading.finish()) == plain(right)
    assert cluster.counted("coordinator_journal_restored_total") == 1


def test_a_folder_has_one_router(cluster, build, smollm2):
    second = subprocess.run(
        [build / "actors" / "chatloop-router", "--model", smollm2(2), "--ctrl",
         "tcp://127.0.0.1:*", "--front", "tcp://127.0.0.1:*", "--result", "tcp://127.0.0.1:*",
         "--http", "127.0.0.1:*", "--journal-dir", cluster.journal],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert second.returncode == 64
    assert "another router uses it" in second.stderr and len(second.stderr.splitlines()) == 1
