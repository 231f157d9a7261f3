"""Streams at once over HTTP, over the ZeroMQ front and, if given, against llama-server: one thread
and bare sockets for each, the same prompts and lengths.

    http_bench.py --http http://127.0.0.1:8080 [--front tcp://127.0.0.1:7101] [--router-pid PID]
                  [--peer http://127.0.0.1:8081] [--streams 32] [--prompt-words 100]
                  [--max-tokens 128] [--rounds 3]

A row a target and round: tokens/s, time to first token and time between tokens (p50, p99) in
milliseconds, and the router's CPU time per token in microseconds where its pid is given. The
targets take turns, so that what the machine does meanwhile meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 600.0


def prompt(stream: int, words: int) -> str:
    return " ".join(f"word{(stream * 31 + i * 7) % 997}" for i in range(words))


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Times:
    """When each stream began and each of its tokens came."""

    def __init__(self, streams: int) -> None:
        self.began = [0.0] * streams
        self.came: list[list[float]] = [[] for _ in range(streams)]

    def row(self) -> dict[str, float]:
        first = [1000 * (came[0] - began)
                 for began, came in zip(self.began, self.came, strict=True) if came]
        between = [1000 * (b - a) for came in self.came
                   for a, b in zip(came, came[1:], strict=False)]
        tokens = sum(map(len, self.came))
        took_s = max(came[-1] for came in self.came if came) - min(self.began)
        return {"tokens": tokens, "tokens/s": tokens / took_s,
                "ttft p50": percentile(first, 0.5), "ttft p99": percentile(first, 0.99),
                "itl p50": percentile(between, 0.5), "itl p99": percentile(between, 0.99)}


def over_http(url: str, args: argparse.Namespace) -> Times:
    """Each event with text is a token: of servers that send one event for each."""
    parts = urlsplit(url)
    times = Times(args.streams)
    selector = selectors.DefaultSelector()
    for stream in range(args.streams):
        body = json.dumps({"prompt": prompt(stream, args.prompt_words), "stream": True,
                           "max_tokens": args.max_tokens, "temperature": 0,
                           "ignore_eos": True, "cache_prompt": False}).encode()
        raw = socket.create_connection((parts.hostname, parts.port))
        times.began[stream] = time.monotonic()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: "
                    b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        raw.setblocking(False)
        selector.register(raw, selectors.EVENT_READ, (stream, bytearray()))
    open_streams = args.streams
    deadline = time.monotonic() + TIMEOUT_S
    while open_streams:
        assert time.monotonic() < deadline, "the server is stuck"
        for key, _ in selector.select(1.0):
            stream, rest = key.data
            data = key.fileobj.recv(1 << 16)
            now = time.monotonic()
            rest += data
            events = rest.split(b"\n\n")
            rest[:] = events.pop()
            for event in events:
                if b'"error"' in event:
                    raise SystemExit(f"{url}: {event.decode(errors='replace')}")
                if b"data: {" in event and b'"text":""' not in event:
                    times.came[stream].append(now)
            if not data or any(b"data: [DONE]" in event for event in events):
                selector.unregister(key.fileobj)
                key.fileobj.close()
                open_streams -= 1
    return times


def over_zeromq(endpoint: str, args: argparse.Namespace) -> Times:
    """One DEALER, as the client library has it; the messages of docs/protocol.md."""
    import msgpack
    import zmq

    submit, piece, done, error = 1, 66, 68, 69
    times = Times(args.streams)
    context = zmq.Context(io_threads=1)
    link = context.socket(zmq.DEALER)
    link.connect(endpoint)
    for stream in range(args.streams):
        parameters = {"prompt": prompt(stream, args.prompt_words), "max_tokens": args.max_tokens,
                      "ignore_eos": True}
        times.began[stream] = time.monotonic()
        link.send(msgpack.packb([1, submit, str(stream), parameters]))
    open_streams = args.streams
    while open_streams:
        assert link.poll(int(TIMEOUT_S * 1000)), "the router is stuck"
        message = msgpack.unpackb(link.recv())
        if message[1] == piece and message[4]:
            times.came[int(message[2])].append(time.monotonic())
        elif message[1] == error:
            raise SystemExit(f"{endpoint}: {message}")
        elif message[1] == done:
            open_streams -= 1
    link.close()
    context.term()
    return times


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", required=True)
    parser.add_argument("--front")
    parser.add_argument("--peer")
    parser.add_argument("--router-pid", type=int)
    for name, value in (("streams", 32), ("prompt-words", 100), ("max-tokens", 128),
                        ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    targets = [("http", lambda: over_http(args.http, args))]
    if args.front:
        targets.append(("zeromq", lambda: over_zeromq(args.front, args)))
    if args.peer:
        targets.append(("peer", lambda: over_http(args.peer, args)))
    for name, run in targets:  # once to warm up
        run()
    for number in range(args.rounds):
        for name, run in targets:
            before_s = cpu_s(args.router_pid) if args.router_pid else 0.0
            row = run().row()
            text = "  ".join(f"{key} {value:9.2f}" for key, value in row.items())
            if args.router_pid and name != "peer":
                us = 1e6 * (cpu_s(args.router_pid) - before_s) / row["tokens"]
                text += f"  router us/token {us:6.1f}"
            print(f"{number} {name:7} {text}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
