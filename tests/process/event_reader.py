"""Resumable streams as a client reads them: event by event, over connections that are cut."""

from __future__ import annotations

import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from http_peer import TIMEOUT_S


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
                assert text == "" or not self.whole
                return None
            if line != ": ping\n":
                text += line
        return text

    def rest(self) -> str:
        """What is left of a body that is no stream."""
        return self._file.read(int(self.headers["content-length"])).decode()

    whole = False
    _chunk = b""

    def _line(self) -> str | None:
        while b"\n" not in self._chunk:
            size = self._file.readline()
            if not size.endswith(b"\n"):
                return None
            data = self._file.read(int(size, 16) + 2)
            if len(data) < int(size, 16) + 2:
                return None  # the connection was lost amid a chunk
            if data == b"\r\n":
                self.whole = True
                return None
            self._chunk += data[:-2]
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
