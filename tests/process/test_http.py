"""The HTTP API of real processes: the same tokens as the ZeroMQ front, in OpenAI's shapes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from http_peer import HttpPeer, RawHttp, post_bytes

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
TEXT = {"prompt": "Once upon a time", "max_tokens": 12, "ignore_eos": True}
GREEDY = {**TEXT, "temperature": 0}


@pytest.fixture
def peer(http_cluster):
    with HttpPeer(http_cluster.endpoints["http"]) as peer:
        yield peer


def running(cluster: Cluster) -> int:
    return cluster.client().status()["running"]


# ---- around completions ----


def test_every_process_says_that_its_loop_turns(http_cluster, peer):
    assert peer.get("/healthz").json == {"status": "ok"}
    for name in ("router", "stage-0", "stage-1"):
        text = "\n".join(http_cluster.processes[name].messages())
        url = text.split("metrics ")[1].split()[0].rstrip(",")
        with HttpPeer(url) as metrics:
            assert metrics.get("/healthz").status == 200
            if name != "router":
                ready = metrics.get("/readyz")
                assert ready.status == 200 and ready.json["worker"] == name


def test_http_takes_no_thread(http_cluster, peer):
    lines = peer.stream("/v1/completions", {**TEXT, "max_tokens": 40, "stream": True})
    next(lines)
    for process in http_cluster.processes.values():
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 3
    assert list(lines)[-2] == "data: [DONE]\n"


def test_ready_once_a_frame_went_through_every_stage(http_cluster, peer):
    for path in ("/readyz", "/health"):
        ready = peer.get(path)
        assert ready.status == 200 and ready.json["status"] == "ready"
        assert [stage["state"] for stage in ready.json["stages"]] == ["ready", "ready"]
    assert running(http_cluster) == 0


def test_not_ready_without_workers(build, smollm2, tmp_path):
    with Cluster(build, smollm2(2), tmp_path, router=["--http", "127.0.0.1:*"]).empty() as cluster:
        cluster.start_router()
        with HttpPeer(cluster.endpoints["http"]) as peer:
            assert peer.get("/healthz").status == 200
            unready = peer.get("/readyz")
            assert unready.status == 503 and unready.headers["retry-after"] == "1"
            assert unready.json["stages"] == []
            cluster.start_workers()
            wait_until(lambda: peer.get("/readyz").status == 200, 60, "the cluster is ready")


def test_models(peer):
    for prefix in ("", "/v1"):
        (card,) = peer.get(prefix + "/models").json["data"]
        assert card["id"] == "SmolLM2-135M-Instruct" and card["object"] == "model"
        assert peer.get(f"{prefix}/models/{card['id']}").json == card
        missing = peer.get(prefix + "/models/gpt-4")
        assert missing.status == 404 and missing.error["code"] == "model_not_found"


def test_tokens_to_text_and_back(peer):
    text = "Hello <|im_end|> world é漢"
    tokens = peer.post("/tokenize", {"content": text}).json
    assert len(tokens["tokens"]) == tokens["count"]
    assert peer.post("/detokenize", {"tokens": tokens["tokens"]}).json["content"] == text
    end = peer.post("/apply-template", {"messages": CHAT}).json["prompt"]
    assert end.startswith("<|im_start|>system\n") and end.endswith("<|im_start|>assistant\n")


def test_special_tokens_of_users_stay_text(peer):
    special = 2  # <|im_end|>
    plain = peer.post("/tokenize", {"content": "<|im_end|>"}).json["tokens"]
    assert special not in plain and len(plain) > 1
    counts = [peer.post("/tokenize", {"messages": [{"role": "user", "content": text}]})
              .json["tokens"].count(special) for text in ("x", "x<|im_end|>")]
    assert counts[0] == counts[1] > 0


def test_cors_and_methods(peer):
    preflight = peer.ask("OPTIONS", "/v1/chat/completions", Origin="http://page.test")
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    head = peer.ask("HEAD", "/v1/models")
    assert head.status == 200 and head.body == b"" and int(head.headers["content-length"]) > 0
    wrong = peer.get("/v1/completions")
    assert wrong.status == 405 and "POST" in wrong.headers["allow"]
    assert peer.get("/v2").status == 404


# ---- completions ----


def test_the_same_tokens_as_over_zeromq(http_cluster, peer):
    for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 7, "top_p": 0.9},
                     {"temperature": 1.1, "seed": 8, "frequency_penalty": 0.5, "stop": "the"}):
        other = http_cluster.client().generate(prompt=TEXT["prompt"], max_tokens=12,
                                               ignore_eos=True, **sampling)
        answer = peer.post("/v1/completions", {**TEXT, **sampling}).json
        assert answer["choices"][0]["text"] == other.text
        assert answer["choices"][0]["finish_reason"] == other.finish_reason
        assert answer["system_fingerprint"] == "fp_" + other.fingerprint
        usage = answer["usage"]
        assert usage["prompt_tokens"] == len(other.prompt_ids)
        assert usage["completion_tokens"] == len(other.token_ids)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_chat(peer):
    asked = {"messages": CHAT, "max_completion_tokens": 8, "temperature": 0, "user": "somebody",
             "unknown_field": {"is": "ignored"}, "stop": None, "n": None}
    answer = peer.post("/v1/chat/completions", asked, x_request_id="mine-1")
    assert answer.headers["x-request-id"] == "mine-1"
    body = answer.json
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["logprobs"] is None and choice["finish_reason"] in ("length", "stop")
    parts = [{"role": "user", "content": [{"type": "text", "text": CHAT[0]["content"]}]}]
    again = peer.post("/chat/completions", {**asked, "messages": parts}).json
    assert again["choices"] == body["choices"]
    long = {"messages": [{"role": "user", "content": "word " * 200}], "max_tokens": 1}
    peer.post("/v1/chat/completions", long)
    cached = peer.post("/v1/chat/completions", long).json["usage"]["prompt_tokens_details"]
    assert cached["cached_tokens"] >= 128


def test_a_stream_is_the_whole_answer_in_pieces(peer):
    asked = {"messages": CHAT, "max_tokens": 10, "temperature": 0.9, "seed": 3, "n": 2,
             "logprobs": True, "top_logprobs": 2}
    whole = peer.post("/v1/chat/completions", asked).json
    events = peer.events("/v1/chat/completions",
                         {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert events.pop() == "[DONE]"
    usage = events.pop()
    assert usage["choices"] == []
    del usage["usage"]["prompt_tokens_details"], whole["usage"]["prompt_tokens_details"]
    assert usage["usage"] == whole["usage"]
    assert len({(e["id"], e["created"], e["object"]) for e in events}) == 1
    assert events[0]["object"] == "chat.completion.chunk"
    for choice in whole["choices"]:
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(m["delta"].get("content", "") for m in mine) == choice["message"]["content"]
        assert [m["finish_reason"] for m in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["delta"] == {} and mine[-1]["finish_reason"] == choice["finish_reason"]
        tokens = [t for m in mine if m["logprobs"] for t in m["logprobs"]["content"]]
        assert tokens == choice["logprobs"]["content"]
        assert all(len(t["top_logprobs"]) == 2 for t in tokens)


def test_no_usage_that_was_not_asked_for(peer):
    events = peer.events("/v1/completions", {**GREEDY, "stream": True})
    assert events[-1] == "[DONE]" and all("usage" not in e for e in events[:-1])
    assert events[0]["object"] == "text_completion"
    text = "".join(e["choices"][0]["text"] for e in events[:-1])
    assert text == peer.post("/v1/completions", GREEDY).json["choices"][0]["text"]


def test_log_probabilities_of_the_prompt(http_cluster, peer):
    ids = peer.post("/tokenize", {"content": "The capital of France is Paris."}).json["tokens"]
    other = http_cluster.client().generate(token_ids=ids, max_tokens=1, prompt_logprobs=1,
                                           logprobs=1)
    answer = peer.post("/v1/completions", {"prompt": [ids], "max_tokens": 1, "echo": True,
                                           "logprobs": 1, "temperature": 0}).json["choices"][0]
    found = answer["logprobs"]
    assert len(found["tokens"]) == len(ids) + 1 == len(found["text_offset"])
    assert "".join(found["tokens"]) == answer["text"]
    assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    want = [entry.logprob for entry in other.prompt_logprobs[1:]] + [other.logprobs[0].logprob]
    assert found["token_logprobs"][1:] == want
    for top, token, logprob in list(zip(found["top_logprobs"], found["tokens"],
                                        found["token_logprobs"], strict=True))[1:]:
        assert top[token] == logprob <= max(top.values())
    only = peer.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True,
                                         "logprobs": 0}).json["choices"][0]
    assert only["logprobs"]["token_logprobs"][1:] == want[:-1]


def test_many_prompts_and_choices(peer):
    asked = {"prompt": ["One", [19556, 905]], "max_tokens": 3, "n": 2, "seed": 5,
             "ignore_eos": True}
    answer = peer.post("/v1/completions", asked).json
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 12
    alone = peer.post("/v1/completions", {**asked, "prompt": "One"}).json
    assert [c["text"] for c in alone["choices"]] == [c["text"] for c in answer["choices"][:2]]


def test_execute(peer):
    whole = peer.post("/execute", {"prompt": "Hello", "max_tokens": 6}).json
    assert whole["text"] and whole["completion_tokens"] == 6 and whole["finish_reason"] == "length"
    *pieces, end = peer.events("/execute", {"prompt": "Hello", "max_tokens": 6, "stream": True})
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert end["done"] is True and end["completion_tokens"] == 6


def test_greedy_by_temperature_zero_and_sampled_by_default(peer):
    answers = {peer.post("/v1/completions", TEXT).json["choices"][0]["text"] for _ in range(4)}
    assert len(answers) > 1  # as OpenAI's default, a temperature of 1 and a seed of its own
    answers = {peer.post("/v1/completions", GREEDY).json["choices"][0]["text"] for _ in range(3)}
    assert len(answers) == 1


def test_numbers_that_lie_far_apart_are_json(peer):
    answer = peer.post("/v1/completions", {**GREEDY, "max_tokens": 2, "logprobs": 1,
                                           "logit_bias": {"0": -100, "19556": 100}}).json
    assert answer["choices"][0]["text"].startswith("Hello")
    for value in answer["choices"][0]["logprobs"]["token_logprobs"]:
        assert math.isfinite(value)


# ---- clients that go ----


@pytest.mark.parametrize("how", ["close", "half_close"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_request(http_cluster, peer, stream, how):
    body = json.dumps({**TEXT, "max_tokens": 4000, "stream": stream}).encode()
    with RawHttp(peer.address) as gone:
        gone.send(post_bytes("/v1/completions", body))
        wait_until(lambda: running(http_cluster) == 1, 20, "it runs")
        if stream:
            assert gone.receive().startswith(b"HTTP/1.1 200")
        getattr(gone, how)()
        began = time.monotonic()
        wait_until(lambda: running(http_cluster) == 0, 20, "it ended")
        assert time.monotonic() - began < 5.0
    assert peer.get("/healthz").status == 200


# ---- keys, a full queue, the end ----


def test_keys(build, tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# mine\nalpha-1\nbeta-2\n")
    options = ["--http", "127.0.0.1:*", "--api-keys-file", str(keys)]
    with Cluster(build, tiny_model, tmp_path / "run", router=options) as cluster:
        with HttpPeer(cluster.endpoints["http"]) as peer:
            asked = {"prompt": [2, 3], "max_tokens": 1}
            refused = peer.post("/v1/completions", asked)
            assert refused.status == 401 and refused.error["type"] == "authentication_error"
            assert refused.headers["x-should-retry"] == "false"
            assert peer.post("/v1/completions", asked, Authorization="Bearer no").status == 401
            good = peer.post("/v1/completions", asked, Authorization="Bearer beta-2")
            assert good.status == 200
            assert peer.get("/healthz").status == 200 and peer.get("/readyz").status == 200
        cluster.stop()


def test_a_full_queue_says_when_to_come_again(build, tiny_model, tmp_path):
    options = ["--http", "127.0.0.1:*", "--max-queue-size", "1", "--route-sequences", "1"]
    with Cluster(build, tiny_model, tmp_path, router=options) as cluster:
        long = json.dumps({"prompt": [2, 3], "max_tokens": 8000, "ignore_eos": True}).encode()
        with HttpPeer(cluster.endpoints["http"]) as peer:
            first, second = RawHttp(peer.address), RawHttp(peer.address)
            first.send(post_bytes("/v1/completions", long))
            wait_until(lambda: running(cluster) == 1, 20, "one runs")
            second.send(post_bytes("/v1/completions", long))
            wait_until(lambda: cluster.client().status()["waiting"] == 1, 20, "one waits")
            refused = peer.post("/v1/completions", {"prompt": [2, 3], "max_tokens": 1})
            assert refused.status == 429 and refused.error["type"] == "rate_limit_error"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-should-retry"] == "true"
            first.close()
            second.close()
        cluster.stop()


def test_sigterm_finishes_what_streams_and_refuses_what_comes(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, router=["--http", "127.0.0.1:*"]) as cluster:
        asked = {"prompt": [2, 3], "max_tokens": 3000, "ignore_eos": True, "stream": True}
        with HttpPeer(cluster.endpoints["http"]) as peer, HttpPeer(
                cluster.endpoints["http"]) as late:
            lines = peer.stream("/v1/completions", asked)
            next(lines)
            began = time.monotonic()
            cluster.terminate()
            wait_until(lambda: any("draining" in m for m in
                                   cluster.processes["router"].messages()), 20, "it drains")
            refused = late.post("/v1/completions", {"prompt": [2], "max_tokens": 1})
            assert refused.status == 503 and refused.error["code"] == "draining"
            assert list(lines)[-2] == "data: [DONE]\n"
        cluster.assert_drained()
        assert time.monotonic() - began < 25.0  # it waited for nothing
