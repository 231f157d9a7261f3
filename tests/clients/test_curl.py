"""curl, as the quickstart prints it."""

from __future__ import annotations

import json
import subprocess

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "stream": True,
                   "max_tokens": 8, "temperature": 0})
KEY = ("-H", "Authorization: Bearer sk-test")


def curl(*words: str) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "60", "--noproxy", "*", *words],
                          capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stream(url):
    lines = curl("-N", *KEY, f"{url}/chat/completions", "-d", BODY).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in lines[:-2])


def test_a_large_body_and_continue(url):
    """curl sends `Expect: 100-continue` for a body above 1 MiB."""
    body = json.dumps({"prompt": "a" * (2 << 20)})
    answer = subprocess.run(["curl", "-sS", "--noproxy", "*", *KEY, f"{url}/completions", "-d",
                             "@-"], input=body, capture_output=True, text=True, timeout=90)
    assert json.loads(answer.stdout)["error"]["code"] == "context_length_exceeded"


def test_head_and_options(url):
    assert "200 OK" in curl("-I", *KEY, f"{url}/models")
    assert "204" in curl("-i", "-X", "OPTIONS", f"{url}/chat/completions")


def test_health(url):
    base = url.removesuffix("/v1")
    for path in ("/healthz", "/readyz", "/health"):
        assert curl("-o", "/dev/null", "-w", "%{http_code}", base + path) == "200"
