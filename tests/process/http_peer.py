"""HTTP by hand: whole requests over http.client, event streams, and raw bytes."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 60.0


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object, whose shape it checks."""
        assert self.headers["content-type"] == "application/json", self.headers
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"] and error["type"]
        return error


class HttpPeer:
    """One connection, kept alive."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self._connection = http.client.HTTPConnection(*self.address, timeout=timeout_s)

    def __enter__(self) -> HttpPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, data, named)
        answer = self._connection.getresponse()
        lower = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, lower, answer.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, **headers)

    def stream(self, path: str, body: Any) -> Iterator[str]:
        """The lines of an event stream, as they come."""
        self._connection.request("POST", path, json.dumps(body).encode())
        answer = self._connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        for line in answer:
            yield line.decode()

    def events(self, path: str, body: Any) -> list[Any]:
        """The data of all events; "[DONE]" as that text. Checks the framing."""
        found = []
        lines = self.stream(path, body)
        for line in lines:
            assert line.startswith("data: ") and line.endswith("\n") and "\r" not in line, line
            assert next(lines) == "\n"
            data = line[6:-1]
            found.append(data if data == "[DONE]" else json.loads(data))
        return found


class RawHttp:
    """A bare connection."""

    def __init__(self, address: tuple[str, int], receive_bytes: int = 0) -> None:
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(address)

    def __enter__(self) -> RawHttp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> bool:
        """False when the other side closed meanwhile."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def receive(self, size: int = 65536) -> bytes:
        return self._socket.recv(size)

    def until_closed(self) -> bytes:
        """All that comes until the other side closes; a reset is a close."""
        data = b""
        try:
            while piece := self._socket.recv(65536):
                data += piece
        except ConnectionError:
            pass
        return data


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
