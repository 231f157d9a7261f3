"""llama.cpp's HTTP server under the same loads: /completion with streaming, a connection each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any

from chatloop.bench.metrics import Outcome
from cluster import wait_until
from process_costs import on_cores
from serving import Requests, checked

START_TIMEOUT_S = 60.0
LINE_BYTES_MAX = 1 << 20  # the last event repeats the prompt


class LlamaServer:
    def __init__(self, port: int, *, cache_prompt: bool) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self._cache_prompt = cache_prompt

    def closed_loop(self, requests: Requests, concurrency: int) -> list[Outcome]:
        waiting = deque(requests)
        outcomes: list[Outcome] = []

        async def one_after_another() -> None:
            while waiting:
                parameters = waiting.popleft()
                outcomes.append(Outcome(time.monotonic()))
                await self._complete(parameters, outcomes[-1])

        async def all_of_them() -> None:
            await asyncio.gather(*(one_after_another() for _ in range(concurrency)))

        asyncio.run(all_of_them())
        return checked(outcomes)

    def newcomer(self, streams: Requests, started: int, settle_s: float,
                 request: dict[str, Any]) -> tuple[list[Outcome], Outcome]:
        async def run() -> tuple[list[Outcome], Outcome]:
            outcomes = [Outcome(time.monotonic()) for _ in streams]
            tasks = [asyncio.create_task(self._complete(stream, outcome))
                     for stream, outcome in zip(streams, outcomes)]
            while (sum(bool(outcome.piece_s) for outcome in outcomes) < started
                   and not any(task.done() for task in tasks)):
                await asyncio.sleep(0.01)
            await asyncio.sleep(settle_s)
            late = Outcome(time.monotonic())
            await self._complete(request, late)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            checked([*outcomes, late])
            return outcomes, late

        return asyncio.run(run())

    async def _complete(self, parameters: dict[str, Any], outcome: Outcome) -> None:
        body = {"prompt": parameters["token_ids"], "n_predict": parameters["max_tokens"],
                "ignore_eos": True, "temperature": 0, "stream": True, "return_tokens": True,
                "cache_prompt": self._cache_prompt}
        async with contextlib.aclosing(self._events(json.dumps(body).encode())) as events:
            async for event in events:
                now_s = time.monotonic()
                if event.startswith(b'{"error"'):
                    outcome.error = event.decode()[:300]
                    break
                told = json.loads(event)
                if told["stop"]:
                    outcome.prompt_tokens = told["tokens_evaluated"]
                    outcome.output_tokens = told["tokens_predicted"]
                    break
                if told["tokens"]:
                    outcome.piece_s.append(now_s)
        outcome.end_s = time.monotonic()
        if outcome.error is None and not outcome.output_tokens:
            outcome.error = "the stream ended early"

    async def _events(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """What is behind `data: ` in each event. The server sends an event as one chunk."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port,
                                                       limit=LINE_BYTES_MAX)
        try:
            writer.write(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                         b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                         % (len(body), body))
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    yield line[6:]
                elif line.startswith(b'{"error"'):
                    yield line
        finally:
            writer.close()


@contextlib.contextmanager
def llama_server(program: Path, gguf: Path, cores: Iterable[int], *, slots: int,
                 slot_context: int, cache_prompt: bool = False) -> Iterator[LlamaServer]:
    """With a thread for each core."""
    cores = list(cores)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "-m", gguf, "-t", len(cores), "-np", slots, "-c", slots * slot_context,
               "-fa", "on", "--host", "127.0.0.1", "--port", port, "--no-webui", "-cram",
               0 if not cache_prompt else 8192]
    with tempfile.TemporaryFile("w+") as log:
        with on_cores(cores):
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: process.poll() is not None or _is_ready(port), START_TIMEOUT_S,
                       "llama-server is ready")
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"llama-server ended: {log.read()[-1000:]}")
            yield LlamaServer(port, cache_prompt=cache_prompt)
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
