"""Resumable streams of a real router: connections cut anywhere, and what comes back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster import wait_until
from event_reader import EventReader, again, begin, id_of, plain, resumable, undisturbed
from http_peer import TIMEOUT_S, HttpPeer

TEXT = {"prompt": "Once upon a time", "max_tokens": 40, "ignore_eos": True, "temperature": 0.8,
        "seed": 5}
CHAT = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 40,
        "temperature": 0, "response_format": {"type": "json_object"}}
RANDOM = random.Random(8)


@pytest.fixture
def url(http_cluster):
    return http_cluster.endpoints["http"]


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
