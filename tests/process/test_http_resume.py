"""Resumable streams of a real router: connections cut anywhere, and what comes back."""

from __future__ import annotations

import json
import random
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from cluster import wait_until
from http_peer import TIMEOUT_S, HttpPeer

TEXT = {"prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": True, "temperature": 0.8,
        "seed": 5}
CHAT = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 40,
        "temperature": 0, "response_format": {"type": "json_object"}}
RANDOM = random.Random(8)


class EventReader:
    """A stream on a socket of its own, event by event, without its chunks' framing."""

    def __init__(self, url: str, method: str, path: str, body: Any = None,
                 last_id: str | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        if method == "POST":
            lines.append(f"Content-Length: {len(data)}")
        if last_id is not None:
            lines.append(f"Last-Event-ID: {last_id}")
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers = {}
        while line := self._file.readline().strip().decode():
            name, value = line.split(": ", 1)
            self.headers[name.lower()] = value

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def events(self) -> list[str]:
        return list(iter(self.event, None))

    def event(self) -> str | None:
        """The next one, with its empty line; nothing when the stream has ended, as it should or
        not (`whole`)."""
        text = ""
        while not text.endswith("\n\n"):
            line = self._line()
            if line is None:
                assert text == ""
                return None
            if line != ": ping\n":
                text += line
        return text

    whole = False
    _chunk = b""

    def _line(self) -> str | None:
        while b"\n" not in self._chunk:
            size = self._file.readline()
            if not size:
                return None
            data = self._file.read(int(size, 16))
            self._file.readline()
            if not data:
                self.whole = True
                return None
            self._chunk += data
        line, self._chunk = self._chunk.split(b"\n", 1)
        return line.decode() + "\n"


def id_of(event: str) -> str:
    return event.removeprefix("id: ").split("\n")[0]


def plain(events: list[str]) -> str:
    """Without what differs between two answers to one request."""
    text = re.sub(r'"id":"(chatcmpl|cmpl|exec)-[0-9a-f]+"', '"id":""', "".join(events))
    return re.sub(r'"created":\d+', '"created":0', text)


def resumable(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True, "resumable": True}}


@pytest.fixture
def url(http_cluster):
    return http_cluster.endpoints["http"]


def begin(url: str, body: dict[str, Any], path: str = "/v1/completions") -> EventReader:
    reader = EventReader(url, "POST", path, resumable(body))
    assert reader.status == 200
    return reader


def again(url: str, address: str, last_id: str | None) -> EventReader:
    return EventReader(url, "GET", address, last_id=last_id)


def undisturbed(url: str, body: dict[str, Any], path: str = "/v1/completions") -> list[str]:
    with begin(url, body, path) as reader:
        events = reader.events()
        assert reader.whole
    return events


def with_cuts(url: str, body: dict[str, Any], cuts: list[int], path: str) -> list[str]:
    """The events of one answer over len(cuts) + 1 connections."""
    reader = begin(url, body, path)
    address = reader.headers["content-location"]
    events: list[str] = []
    for cut in cuts:
        with reader:
            for _ in range(cut):
                if (event := reader.event()) is None:
                    break
                events.append(event)
        reader = again(url, address, id_of(events[-1]) if events else None)
        if reader.status == 204:
            reader.close()
            return events
        assert reader.status == 200
    with reader:
        events += reader.events()
        assert reader.whole
    return events


def running(http_cluster) -> int:
    return http_cluster.client().status()["running"]


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", TEXT),
    ("/v1/completions", {**TEXT, "logprobs": 2, "echo": True}),
    ("/execute", TEXT),
    ("/v1/chat/completions", CHAT),
], ids=["text", "logprobs", "execute", "chat"])
def test_a_stream_cut_anywhere_is_the_undisturbed_one(url, path, body):
    whole = undisturbed(url, body, path)
    assert all(event.startswith("id: ") for event in whole)
    for _ in range(6):
        cuts = [RANDOM.randrange(len(whole)) for _ in range(RANDOM.randrange(1, 4))]
        assert plain(with_cuts(url, body, cuts, path)) == plain(whole), cuts


def test_two_choices_cut_anywhere(url):
    """Their events come in another order each time; those of each choice do not."""
    def by_choice(events: list[str]) -> list[list[str]]:
        data = [event[event.index("data: "):] for event in events]
        return [[plain([text]) for text in data if f'"index":{choice},' in text]
                for choice in (0, 1)]

    body = {**TEXT, "n": 2, "max_tokens": 24}
    whole = undisturbed(url, body)
    for _ in range(6):
        cuts = [RANDOM.randrange(len(whole)) for _ in range(RANDOM.randrange(1, 4))]
        events = with_cuts(url, body, cuts, "/v1/completions")
        assert by_choice(events) == by_choice(whole), cuts
        assert len(events) == len(whole) and plain(events[-2:]) == plain(whole[-2:])


def test_without_the_option_a_lost_connection_ends_the_request(http_cluster, url):
    cancelled = http_cluster.client().status()["counters"]["requests"]
    body = {**TEXT, "max_tokens": 4000, "stream": True}
    with EventReader(url, "POST", "/v1/completions", body) as reader:
        assert "content-location" not in reader.headers
        assert reader.event().startswith("data: ")
        assert running(http_cluster) == 1
    wait_until(lambda: running(http_cluster) == 0, TIMEOUT_S, "the request is over")
    assert http_cluster.client().status()["counters"]["requests"] == cancelled + 1


def test_an_answer_that_ended_without_its_client_is_read_whole(http_cluster, url):
    whole = undisturbed(url, TEXT)
    reader = begin(url, TEXT)
    reader.close()
    wait_until(lambda: running(http_cluster) == 0, TIMEOUT_S, "the answer has ended")
    address = reader.headers["content-location"]
    for path in (address, address.removeprefix("/v1")):
        with again(url, path, None) as late:
            assert plain(late.events()) == plain(whole) and late.whole
    with again(url, address, id_of(whole[-2])) as late:
        assert late.events() == [whole[-1]]
    with again(url, address, id_of(whole[-1])) as late:
        assert late.status == 204


def test_the_later_of_two_connections_has_the_stream(url):
    first = begin(url, {**TEXT, "max_tokens": 200})
    address = first.headers["content-location"]
    events = [first.event() for _ in range(5)]
    with again(url, address, id_of(events[2])) as second, first:
        rest = second.events()
        assert second.whole
        assert [id_of(event) for event in rest] == [str(i) for i in range(4, 201)] + [
            "200.1", "200.2", "200.3"]
        assert rest[:2] == events[3:]
        read = first.events()
        assert not first.whole, "a stream that was taken over does not end as if it were complete"
        assert read == rest[2:2 + len(read)]


def test_delete_ends_a_stream(http_cluster, url):
    with begin(url, {**TEXT, "max_tokens": 4000}) as reader, HttpPeer(url) as peer:
        reader.event()
        address = reader.headers["content-location"]
        assert peer.ask("DELETE", address).status == 204
        reader.events()
        assert not reader.whole
        assert running(http_cluster) == 0
        gone = peer.get(address)
        assert gone.status == 404 and gone.error["code"] == "not_found"
        assert peer.ask("DELETE", address).status == 404


def test_what_cannot_be_taken_up(url):
    with HttpPeer(url) as peer:
        assert peer.get("/v1/streams/" + 32 * "0").error["code"] == "not_found"
        with begin(url, TEXT) as reader:
            reader.events()
            address = reader.headers["content-location"]
        for bad in ("x", "0,0", "-1", "41", 5000 * "9"):
            refused = peer.get(address, Last_Event_ID=bad)
            assert refused.status == 400 and refused.error["param"] == "Last-Event-ID", bad
        many = peer.post("/v1/completions", resumable({**TEXT, "prompt": ["a", "b"]}))
        assert many.status == 400 and many.error["param"] == "stream_options.resumable"
        head = peer.ask("HEAD", address)
        assert head.status == 200 and head.headers["content-type"].startswith("text/event-stream")
