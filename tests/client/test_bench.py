"""`chatloop bench`: what it asks, when, and what it makes of the answers."""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from fake_router import SUBMIT, WORDS, FakeRouter, silent_handler, word_handler
from test_cli import chatloop

from chatloop import ChatLoopError
from chatloop.bench.generator import closed_loop, open_loop, peers
from chatloop.bench.metrics import Outcome, percentile, summary
from chatloop.bench.workload import Lengths, Workload, read_dataset


def workload(count: int = 50, **options: Any) -> Workload:
    lengths = {"input_len": Lengths.parse("uniform:3:9"), "output_len": Lengths.parse("4")}
    return Workload(count, **{**lengths, "vocab_size": 100, **options})


# ---- the load ----


@pytest.mark.parametrize(
    ("text", "least", "most", "median"),
    [("7", 7, 7, 7), ("uniform:3:9", 3, 9, 6), ("lognormal:50:0.5:200", 1, 200, 50)],
)
def test_lengths(text: str, least: int, most: int, median: int) -> None:
    rng = random.Random(1)
    drawn = [Lengths.parse(text).draw(rng) for _ in range(5000)]
    assert least <= min(drawn) and max(drawn) <= most
    assert abs(statistics.median(drawn) - median) <= 0.05 * median


@pytest.mark.parametrize(
    "text",
    ["", "0", "2.5", "-3", "x", "normal:3:4", "uniform:3", "uniform:9:3", "lognormal:5:1",
     "lognormal:5:-1:9", "lognormal:9:1:5"],
)
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        Lengths.parse(text)


def test_a_workload_follows_from_its_seed() -> None:
    assert workload().requests() == workload().requests()
    assert workload().requests() != workload(seed=1).requests()
    assert workload().requests(0) != workload().requests(1)
    assert workload().arrivals_s(5.0) == workload().arrivals_s(5.0)
    for request in workload(parameters={"ignore_eos": True}).requests():
        assert 3 <= len(request["token_ids"]) <= 9 and max(request["token_ids"]) < 100
        assert request["max_tokens"] == 4 and request["ignore_eos"] is True


def test_a_shared_prefix() -> None:
    prompts = [tuple(r["token_ids"]) for r in workload(prefix_len=20).requests()]
    assert len({prompt[:20] for prompt in prompts}) == 1
    assert len({prompt[20:] for prompt in prompts}) > 40
    assert workload(prefix_len=20).requests(1)[0]["token_ids"][:20] != list(prompts[0][:20])


def test_arrivals_are_a_poisson_process() -> None:
    arrivals = workload(count=20000).arrivals_s(50.0)
    assert arrivals == sorted(arrivals)
    gaps = [after - before for before, after in zip([0.0, *arrivals], arrivals)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(1 / 50, rel=0.05)  # as an exponential has it


def test_a_dataset(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"prompt": "b", "max_tokens": 9}\n{"prompt": "c"}\n')
    asked = workload(count=2, dataset=read_dataset(file))
    assert [(r["prompt"], r["max_tokens"]) for r in asked.requests()] == [("a", 4), ("b", 9)]
    assert [r["prompt"] for r in asked.requests(1)] == ["c", "a"]
    for text in ("", "[]\n", '{"text": "a"}\n', "{\n"):
        file.write_text(text)
        with pytest.raises(ChatLoopError, match="prompts.jsonl"):
            read_dataset(file)
    with pytest.raises(ChatLoopError, match="missing"):
        read_dataset(tmp_path / "missing")


# ---- the figures ----


def test_percentiles_are_numpy_s() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, p) for p in (0, 50, 95, 100)] == [
        1.0, 2.5, pytest.approx(3.85), 4.0]
    assert percentile([7.0], 99) == 7.0 and percentile([], 99) == 0.0


def test_summary() -> None:
    first = Outcome(10.0, [10.5, 10.6, 10.8], prompt_tokens=8, output_tokens=3, end_s=10.9)
    second = Outcome(11.0, [11.1], prompt_tokens=4, output_tokens=1, end_s=12.0)
    failed = Outcome(11.0, [11.2], output_tokens=1, end_s=11.5, error="worker_lost: gone")
    found = summary([first, second, failed], {"ttft": 500, "tpot": 250})
    assert found | {
        "duration": 2.0, "completed": 2, "failed": 1, "total_input_tokens": 12,
        "total_output_tokens": 4, "request_throughput": 1.0, "request_goodput": 1.0,
        "output_throughput": 2.0, "total_token_throughput": 8.0} == found
    assert found["mean_ttft_ms"] == pytest.approx(300) == found["median_ttft_ms"]
    assert found["p99_ttft_ms"] == pytest.approx(496)
    assert found["mean_itl_ms"] == pytest.approx(150)
    assert found["p95_itl_ms"] == pytest.approx(195)
    assert found["mean_tpot_ms"] == pytest.approx(200)  # (10.9 - 10.5) / 2, the second has none
    assert found["median_e2el_ms"] == pytest.approx(950)
    for limits, good in (({"ttft": 499}, 1), ({"tpot": 199}, 1), ({"e2el": 999}, 1),
                         ({"e2el": 899}, 0), ({"ttft": 501, "tpot": 201, "e2el": 1001}, 2)):
        assert summary([first, second, failed], limits)["request_goodput"] == good / 2.0
    assert summary([first])["request_goodput"] is None


# ---- the runs ----


def test_a_closed_loop_keeps_so_many_running() -> None:
    running: list[str] = []
    most = 0

    def handler(router: FakeRouter, message: list[Any]) -> None:
        nonlocal most
        router.accept(message[1], [1, 2, 3])
        running.append(message[1])
        most = max(most, len(running))
        if len(running) == 4:  # all four wait for it
            router.piece(running[0], 0, [7], "a", 0)
            router.done(running.pop(0), "length", tokens=1)

    with FakeRouter(handler) as router, peers(router.endpoint, 2) as clients:
        with pytest.raises(ChatLoopError, match="no answer"):  # the last three are never answered
            closed_loop(clients, workload(10).requests(), 4, timeout_s=0.5)
        assert most == 4 and len(router.heard_of(SUBMIT)) == 10
        assert sum(peer.running for peer in clients) == 3


def test_an_open_loop_keeps_its_times() -> None:
    times_s: list[float] = []

    def handler(router: FakeRouter, message: list[Any]) -> None:
        times_s.append(time.monotonic())
        word_handler(router, message)

    arrivals_s = [0.0, 0.1, 0.1, 0.5]
    with FakeRouter(handler) as router, peers(router.endpoint, 3) as clients:
        outcomes = open_loop(clients, workload(4).requests(), arrivals_s)
    began_s = outcomes[0].start_s
    assert [o.start_s - began_s for o in outcomes] == pytest.approx(arrivals_s)
    assert all(sent >= o.start_s for sent, o in zip(times_s, outcomes))
    for outcome in outcomes:
        assert (outcome.prompt_tokens, outcome.output_tokens) == (3, len(WORDS))
        assert outcome.error is None and len(outcome.piece_s) == len(WORDS)
        times = [outcome.start_s, *outcome.piece_s, outcome.end_s]
        assert times == sorted(times)


def test_what_fails_is_counted() -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if len(router.heard_of(SUBMIT)) % 2:
            router.error(message[1], "queue_full", True)
        else:
            word_handler(router, message)

    with FakeRouter(handler) as router, peers(router.endpoint) as clients:
        outcomes = closed_loop(clients, workload(10).requests(), 1)
    assert [o.error is None for o in outcomes] == [False, True] * 5
    assert outcomes[0].error == "queue_full: no luck"
    assert summary(outcomes)["failed"] == 5


# ---- the command ----


def test_a_sweep_in_json() -> None:
    options = ["--concurrency", "1,3", "--num-prompts", "6", "--num-warmups", "2", "--input-len",
               "uniform:1:5", "--vocab-size", "50", "--goodput", "ttft:60000", "e2el:60000",
               "--detailed", "--json"]
    with FakeRouter(word_handler) as router:
        ended = chatloop("bench", "--endpoint", router.endpoint, *options)
        submits = router.heard_of(SUBMIT)
    assert (ended.returncode, ended.stderr) == (0, "")
    one, three = map(json.loads, ended.stdout.splitlines())
    assert (one["max_concurrency"], three["max_concurrency"]) == (1, 3)
    assert one["total_output_tokens"] == 6 * len(WORDS) and one["total_input_tokens"] == 6 * 3
    assert one["request_goodput"] == one["request_throughput"] > 0
    assert one["failed"] == 0 and one["client_cpu_us_per_token"] > 0
    for name in ("ttft", "tpot", "itl", "e2el"):
        for column in ("mean", "median", "std", "p95", "p99"):
            assert one[f"{column}_{name}_ms"] >= 0
    assert len(one["ttfts"]) == 6 and all(len(gaps) == len(WORDS) - 1 for gaps in one["itls"])
    assert len(submits) == 2 + 6 + 6
    for submit in submits:
        parameters = submit[2]
        assert parameters["ignore_eos"] is True and parameters["max_tokens"] == 128
        assert 1 <= len(parameters["token_ids"]) <= 5 and max(parameters["token_ids"]) < 50


def test_a_rate_as_a_table() -> None:
    with FakeRouter(word_handler) as router:
        ended = chatloop("bench", "--endpoint", router.endpoint, "--request-rate", "50",
                         "--num-prompts", "5")
    assert ended.returncode == 0
    assert ended.stdout.startswith("50 requests/s: 5 requests, 0 failed, ")
    assert "time between tokens" in ended.stdout


def test_nothing_but_errors_is_an_error() -> None:
    def refuse(router: FakeRouter, message: list[Any]) -> None:
        router.error(message[1], "prompt_too_long", False)

    with FakeRouter(refuse) as router:
        ended = chatloop("bench", "--endpoint", router.endpoint, "--num-prompts", "2")
    assert ended.returncode == 1
    assert ended.stderr == "chatloop: prompt_too_long: no luck (no request succeeded)\n"


@pytest.mark.parametrize(
    "options",
    [["--concurrency", "0"], ["--request-rate", "1", "--concurrency", "2"], ["--goodput", "x:1"],
     ["--goodput", "ttft"], ["--input-len", "uniform:5"], ["--num-prompts", "0"]],
)
def test_options_that_are_refused(options: list[str]) -> None:
    ended = chatloop("bench", *options)
    assert ended.returncode == 2 and "chatloop bench: error: " in ended.stderr


def test_a_router_that_never_answers() -> None:
    with FakeRouter(silent_handler) as router:
        ended = chatloop("bench", "--endpoint", router.endpoint, "--num-prompts", "2",
                         "--timeout", "0.3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("chatloop: timeout: ")
