"""chatloop-cpud as a worker: POST /execute, strictly one after another, and its ready message."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from pathlib import Path

import pytest
from cluster import Process, wait_until
from http_peer import HttpPeer, RawHttp, post_bytes

ASK = {"prompt": [2, 3, 4], "ignore_eos": True, "temperature": 0}


class Cpud:
    def __init__(self, build: Path, folder: Path, model: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.process = Process("cpud", folder / "cpud.log", [
            build / "actors" / "chatloop-cpud", "--model", model, "--port", "0", *options])

    def __enter__(self) -> Cpud:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    @property
    def url(self) -> str:
        def found() -> list[str]:
            assert self.process.exit_code is None, self.process.messages()
            return re.findall(r"listens at (http://\S+),", "\n".join(self.process.messages()))

        wait_until(found, 120, "it listens")
        return found()[0]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(40.0) == 0


class Receiver(http.server.BaseHTTPRequestHandler):
    """Refuses the first ready message and takes the second."""

    seen: list[dict] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"path": self.path, **body})
        self.send_response(500 if len(self.seen) == 1 else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver():
    Receiver.seen = []
    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/workers?x=1", Receiver.seen
        server.shutdown()
        thread.join()


def test_a_worker_says_that_it_is_ready_and_serves(build, smollm2, tmp_path, receiver):
    url, seen = receiver
    with Cpud(build, tmp_path, smollm2(1), "--worker-id", "w1", "--callback-url", url) as cpud:
        wait_until(lambda: len(seen) == 2, 60, "the ready message was taken")
        assert seen[0] == seen[1]
        assert seen[0]["path"] == "/workers?x=1" and seen[0]["worker_id"] == "w1"
        assert seen[0]["endpoint"] == cpud.url
        assert seen[0]["model"] == "SmolLM2-135M-Instruct" and seen[0]["memory_bytes"] > 50 << 20
        with HttpPeer(seen[0]["endpoint"]) as peer:
            answer = peer.post("/execute", {"prompt": "Hello", "max_tokens": 5}).json
            assert answer["text"] and answer["completion_tokens"] == 5
            chat = peer.post("/v1/chat/completions", {
                "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3})
            assert chat.json["choices"][0]["message"]["content"]
            assert peer.get("/readyz").status == 200
            tasks = list(Path(f"/proc/{cpud.process.pid}/task").iterdir())
            assert len(tasks) == 1
        cpud.stop()


def order_of(cpud: Cpud) -> list[str]:
    """Of the requests in the log: "start" and "done"."""
    return [message.split(":")[0] for message in cpud.process.messages()
            if message.startswith(("started: ", "done: "))]


@pytest.mark.parametrize("parallel", [1, 2])
def test_requests_run_one_after_another_unless_told(build, tiny_model, tmp_path, parallel):
    with Cpud(build, tmp_path, tiny_model, "--parallel", str(parallel)) as cpud:
        body = json.dumps({**ASK, "max_tokens": 300}).encode()
        with HttpPeer(cpud.url) as peer:
            clients = [RawHttp(peer.address) for _ in range(4)]
            for client in clients:
                client.send(post_bytes("/v1/completions", body, "Connection: close"))
            for client in clients:
                assert client.until_closed().startswith(b"HTTP/1.1 200")
        running, most = 0, 0
        for step in order_of(cpud):
            running += 1 if step == "started" else -1
            most = max(most, running)
        assert most == parallel and running == 0
        cpud.stop()


def test_a_gguf_file_is_split_once(build, gguf, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"),
                   "CHATLOOP_SPLITTER": str(tmp_path / "splitter")}
    script = Path(__file__).resolve().parents[2] / "python" / "model_splitter" / "split_model.py"
    import subprocess
    import sys
    splitter = tmp_path / "splitter"
    splitter.write_text(f'#!/bin/sh\necho ran >> "{tmp_path}/ran"\n'
                        f'exec "{sys.executable}" "{script}" "$@"\n')
    splitter.chmod(0o755)
    texts = []
    for _ in range(2):
        done = subprocess.run([build / "actors" / "chatloop-cpud", "--model", gguf, "--prompt",
                               "Hello", "--max-tokens", "3", "--json"], env=environment,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        texts.append(json.loads(done.stdout.splitlines()[-1])["text"])
    assert texts[0] == texts[1]
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_bad_options(build, tiny_model, refusal, tmp_path):
    model = ("--model", tiny_model, "--port", "0")
    assert "http://" in refusal("chatloop-cpud", *model, "--callback-url", "https://x/")
    assert "--parallel" in refusal("chatloop-cpud", *model, "--parallel", "0")
    assert "ADDRESS" in refusal("chatloop-cpud", *model, "--host", "localhost")
    missing = tmp_path / "none.gguf"
    assert "cannot be read" in refusal("chatloop-cpud", "--model", missing, "--port", "0")
