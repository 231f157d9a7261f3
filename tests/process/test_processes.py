"""What only real processes show: threads, signals, and clients beside each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from answers import of_generation
from chatloop import ChatLoopError, protocol
from cluster import Cluster, wait_until
from raw_socket import RawSocket

PYTHON = Path(__file__).resolve().parents[2] / "python"
CLIENTS = 8
LONG_TINY = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000}  # seconds
SHORT_TINY = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 8, "logprobs": 2, "seed": 1}


# ---- threads ----


def thread_names(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task")
    return sorted((task / "comm").read_text().strip() for task in tasks.iterdir())


def test_three_threads_in_each_process_while_it_serves(smollm2_cluster, requests, right_answers):
    client = smollm2_cluster.client()
    streams = [client.stream(**request) for request in requests]
    for stream in streams:
        next(stream)
    status = client.status()
    seen = {name: thread_names(process.pid) for name, process in smollm2_cluster.processes.items()}
    for stream in streams:
        for _ in stream:
            pass
    assert status["running"] == CLIENTS  # it was amid its work
    assert [of_generation(stream.result) for stream in streams] == right_answers
    for name, names in seen.items():
        # The application's own thread bears the program's name, cut by the kernel to 15 bytes.
        own = "chatloop-router" if name == "router" else "chatloop-stage"
        assert names == sorted([own, "ZMQbg/IO/0", "ZMQbg/Reaper"]), name


def test_one_thread_in_cpud(build, tiny_model, tmp_path):
    (tmp_path / "requests").write_text(json.dumps({**LONG_TINY, "echo": True}))
    command = [build / "actors" / "chatloop-cpud", "--model", tiny_model,
               "--requests", tmp_path / "requests"]
    cpud = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    try:
        assert cpud.stdout.read(1)  # it is amid the answer
        assert thread_names(cpud.pid) == ["chatloop-cpud"]
        assert cpud.poll() is None
    finally:
        cpud.kill()
        cpud.communicate()


# ---- clients ----


def test_eight_client_processes(smollm2_cluster, requests, right_answers):
    def start(request: dict) -> subprocess.Popen:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in request.items()
                   if name not in ("prompt", "ignore_eos")]
        command = [sys.executable, "-m", "chatloop", "generate", "--json", "--ignore-eos",
                   "--endpoint", smollm2_cluster.endpoints["front"], *options, request["prompt"]]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PYTHON)},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    clients = [start(request) for request in requests]
    try:
        for client, expected in zip(clients, right_answers, strict=True):
            out, err = client.communicate(timeout=120)
            assert client.returncode == 0, err
            found = json.loads(out)
            assert tuple(found["token_ids"]) == expected.token_ids
            assert found["text"] == expected.text
    finally:
        for client in clients:
            client.kill()
            client.wait()


def test_closing_a_stream_frees_its_place(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, stage=("--max-sequences", "1")) as cluster:
        client, other = cluster.client(), cluster.client()
        expected = of_generation(client.generate(**SHORT_TINY))
        long = client.stream(**LONG_TINY)
        next(long)
        waiting = other.stream(**SHORT_TINY)
        wait_until(lambda: other.status()["waiting"] == 1, 10, "the second request waits")
        assert other.status()["running"] == 1
        long.close()
        for _ in waiting:
            pass
        assert of_generation(waiting.result) == expected
        assert other.status()["running"] == 0
        client.ping()  # takes what has come before, the end of the closed stream
        with pytest.raises(ChatLoopError) as caught:  # the router has forgotten it
            client.cancel(long.request_id)
        assert caught.value.code == "invalid_request"
        cluster.stop()


def test_cancel_keeps_what_was_answered(tiny_cluster):
    stream = tiny_cluster.client().stream(**LONG_TINY)
    pieces = [next(stream)]
    stream.cancel()
    pieces += stream
    result = stream.result
    assert result.finish_reason == "cancelled"
    assert 0 < len(result.token_ids) < LONG_TINY["max_tokens"]
    assert result.token_ids == [token for piece in pieces for token in piece.token_ids]


# ---- answers ----


def test_pieces_join_to_the_text(smollm2_cluster):
    """So hot that most tokens are parts of characters: none is ever torn."""
    client = smollm2_cluster.client()
    for seed in range(3):
        stream = client.stream(prompt="日本", temperature=20.0, seed=seed, max_tokens=40, echo=True,
                               ignore_eos=True, logprobs=0)
        pieces = list(stream)
        result = stream.result
        assert pieces[0].text == "日本" and pieces[0].token_ids == []
        assert "".join(piece.text for piece in pieces) == result.text
        assert [token for piece in pieces for token in piece.token_ids] == result.token_ids
        bytes_so_far = tokens_so_far = 0
        for piece in pieces:
            assert (piece.text_offset, piece.index) == (bytes_so_far, tokens_so_far)
            bytes_so_far += len(piece.text.encode())
            tokens_so_far += len(piece.token_ids)
        assert result.usage.completion_tokens == tokens_so_far == 40


def test_stop_strings(smollm2_cluster):
    client = smollm2_cluster.client()
    whole = client.generate(prompt="Once upon a time", max_tokens=40)
    # Amid a word, over the end of a token, and one that never comes; the first in the text wins.
    early, late = whole.text[30:38], whole.text[60:64]
    stream = client.stream(prompt="Once upon a time", max_tokens=40, stop=[late, early, "\0never"])
    text = "".join(piece.text for piece in stream)
    result = stream.result
    first = min((late, early), key=whole.text.find)
    assert text == result.text == whole.text[:whole.text.find(first)]
    assert (result.finish_reason, result.stop) == ("stop", first)
    assert result.token_ids == whole.token_ids[:len(result.token_ids)]
    assert 0 < len(result.token_ids) < len(whole.token_ids)

    never = client.generate(prompt="Once upon a time", max_tokens=40, stop="\0never")
    assert (never.text, never.finish_reason, never.stop) == (whole.text, "length", None)


def test_stop_ids_and_ignore_eos(smollm2_cluster):
    client = smollm2_cluster.client()
    ending = {"prompt": "What is the capital of France?", "max_tokens": 12}  # at once, by id 2
    ended = client.generate(**ending)
    assert (ended.token_ids, ended.finish_reason, ended.stop) == ([], "stop", 2)
    going_on = client.generate(**ending, ignore_eos=True, logprobs=2)
    assert len(going_on.token_ids) == 12 and not {0, 2} & set(going_on.token_ids)
    token = going_on.token_ids[4]
    stopped = client.generate(**ending, ignore_eos=True, stop_token_ids=[token])
    assert stopped.token_ids == going_on.token_ids[:going_on.token_ids.index(token)]
    assert (stopped.finish_reason, stopped.stop) == ("stop", token)


def test_resume_goes_on_bit_exactly(smollm2_cluster):
    parameters = {"prompt": "The sea is", "max_tokens": 24, "temperature": 0.9, "seed": 5,
                  "top_p": 0.95, "logprobs": 2, "ignore_eos": True}
    client = smollm2_cluster.client()
    whole = client.generate(**parameters)
    for held in (0, 1, 10, 23):
        progress = {"prompt_ids": whole.prompt_ids, "token_ids": whole.token_ids[:held],
                    "seed": whole.seed, "fingerprint": whole.fingerprint}
        with RawSocket(smollm2_cluster.endpoints["front"]) as front:
            front.send(msgpack.packb([1, protocol.RESUME, "r", 1, parameters, progress]))
            tokens, logprobs, text, offset = [], [], "", None
            while (message := front.receive())[1] != protocol.DONE:
                assert message[1] in (protocol.ACCEPTED, protocol.PIECE), message
                if message[1] == protocol.ACCEPTED:
                    assert message[3]["prompt_ids"] == whole.prompt_ids
                    continue
                index, ids, piece, piece_offset, entries, _ = message[3:]
                assert index == held + len(tokens)
                offset = piece_offset if offset is None else offset
                tokens, text, logprobs = tokens + ids, text + piece, logprobs + entries
        assert tokens == whole.token_ids[held:]
        expected = [[e.token_id, e.logprob, [list(pair) for pair in e.top]]
                    for e in whole.logprobs[held:]]
        assert logprobs == expected
        assert whole.text.encode()[offset:].decode() == text
        assert message[3]["finish_reason"] == "length"


def test_resume_under_another_fingerprint_is_refused(tiny_cluster):
    progress = {"prompt_ids": [2], "token_ids": [3], "seed": 0, "fingerprint": "0" * 16}
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        answer = front.ask([1, protocol.RESUME, "r", 1, SHORT_TINY, progress])
    assert answer[1:4] == [protocol.ERROR, "r", "fingerprint_mismatch"]
