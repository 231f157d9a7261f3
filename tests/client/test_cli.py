"""The command line, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import chatloop as chatloop_package
import pytest
from chatloop import Client
from fake_router import CANCEL, SUBMIT, WORDS, FakeRouter, silent_handler, word_handler
from test_stream import eventually

COMMAND = [sys.executable, "-m", "chatloop"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def chatloop(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=ENVIRONMENT,
        input=text,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_generate_prints_the_text_and_the_stats() -> None:
    with FakeRouter(word_handler) as router:
        ended = chatloop("generate", "hi", "--endpoint", router.endpoint, "--stats")
    assert (ended.returncode, ended.stdout) == (0, "Paris is not Rome.\n")
    pattern = (
        r"3 prompt tokens, 5 completion tokens, [\d.]+ tokens/s, first token after \d+ ms, stop\n"
    )
    assert re.fullmatch(pattern, ended.stderr)


def test_generate_passes_its_options_on_and_prints_json() -> None:
    options = ["--chat", "--max-tokens", "9", "--temperature", "0.5", "--seed", "3", "--stop", "a"]
    with FakeRouter(word_handler) as router:
        ended = chatloop(
            "generate", "-", "--endpoint", router.endpoint, "--json", *options, text="hi"
        )
        [submit] = router.heard_of(SUBMIT)
    assert submit[2] == {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["a"],
    }
    result = json.loads(ended.stdout)
    assert result["text"] == "Paris is not Rome."
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_generate_has_an_option_for_each_parameter() -> None:
    options = {
        "top-p": 0.5, "top-k": 4, "min-p": 0.25, "typical-p": 0.75, "repetition-penalty": 1.5,
        "presence-penalty": -0.5, "frequency-penalty": 0.25, "min-tokens": 2, "priority": -3,
        "deadline-ms": 900, "logprobs": 2, "prompt-logprobs": 1,
    }  # fmt: skip
    words = [f"--{name}={value}" for name, value in options.items()]
    repeated = ["--logit-bias", "7=-1.5", "--logit-bias", "9=2", "--stop-token-ids", "3"]
    with FakeRouter(silent_handler) as router:
        process = subprocess.Popen(
            [*COMMAND, "generate", "hi", "--endpoint", router.endpoint, *words, *repeated],
            env=ENVIRONMENT,
        )
        assert eventually(lambda: router.heard_of(SUBMIT), 15)
        process.terminate()
        process.wait(15)
        [submit] = router.heard_of(SUBMIT)
    assert submit[2] == {
        **{name.replace("-", "_"): value for name, value in options.items()},
        "prompt": "hi",
        "logit_bias": {7: -1.5, 9: 2.0},
        "stop_token_ids": [3],
    }


def _sent(*options: str) -> dict[str, Any]:
    with FakeRouter(word_handler) as router:
        ended = chatloop("generate", "hi", "--endpoint", router.endpoint, *options)
        assert (ended.returncode, ended.stderr) == (0, "")
        [submit] = router.heard_of(SUBMIT)
    sent: dict[str, Any] = submit[2]
    return sent


def test_generate_passes_a_constraint_on(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    assert _sent("--json-schema", str(schema))["json_schema"] == '{"type": "object"}'
    assert _sent("--regex", "[0-9]+")["regex"] == "[0-9]+"
    assert _sent("--choice", "yes", "--choice", "no")["choice"] == ["yes", "no"]


@pytest.mark.parametrize("options", [
    ["--json-schema", "/no/such/file"], ["--regex", "a", "--choice", "b"], ["--top-p", "much"],
    ["--unknown"],
], ids=str)
def test_what_the_command_line_cannot_mean_is_two(options: list[str]) -> None:
    ended = chatloop("generate", "hi", *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ": error: " in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(("module", "name"), [
    ("chatloop", "chatloop"), ("chatloop.telemetry", "chatloop.telemetry"),
])
def test_the_version_is_the_file_s(module: str, name: str) -> None:
    version = Path(chatloop_package.__file__).with_name("VERSION").read_text().strip()
    ended = subprocess.run([sys.executable, "-m", module, "--version"], env=ENVIRONMENT,
                           capture_output=True, text=True, timeout=15, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{name} {version}\n", "")


def test_generate_says_why_there_is_no_route() -> None:
    """On standard error, once for each reason, and the answer comes all the same."""

    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            router.no_route = "layers 15-29 are missing\x1b"

    with FakeRouter(handler) as router:
        process = subprocess.Popen([*COMMAND, "generate", "hi", "--endpoint", router.endpoint],
                                   env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        assert process.stdout is not None and process.stderr is not None
        said = process.stderr.readline()
        assert said == ("chatloop: waiting, there is no route: "
                        "layers 15-29 are missing\\u001b\n")
        router.no_route = "no sampler is there"
        assert process.stderr.readline().endswith("no route: no sampler is there\n")
        [submit] = router.heard_of(SUBMIT)
        word_handler(router, submit)
        out, rest = process.communicate(timeout=15)
        assert (process.returncode, out, rest) == (0, "Paris is not Rome.\n", "")


def test_status_and_top_say_why_there_is_no_route() -> None:
    with FakeRouter(word_handler) as router:
        router.no_route = "layers 15-29 are missing"
        status = chatloop("status", "--endpoint", router.endpoint)
        top = chatloop("top", "--once", "--interval", "0.1", "--endpoint", router.endpoint)
    assert "ready        no\n" in status.stdout
    assert "no_route     layers 15-29 are missing\n" in status.stdout
    assert [line.rstrip() for line in top.stdout.splitlines()][1] == "layers 15-29 are missing"


def test_several_choices_are_printed_one_below_the_other() -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.accept(message[1], [1])
        for choice in (1, 0):
            router.piece(message[1], 0, [5], f"answer {choice}", 0, choice=choice)
            router.choice_done(message[1], choice, "length", tokens=1)
        router.done(message[1], "length", tokens=2)

    with FakeRouter(handler) as router:
        ended = chatloop("generate", "hi", "--n", "2", "--endpoint", router.endpoint)
        as_json = chatloop("generate", "hi", "--n", "2", "--json", "--endpoint", router.endpoint)
    assert (ended.returncode, ended.stdout) == (
        0, "--- choice 0, length\nanswer 0\n--- choice 1, length\nanswer 1\n",
    )  # fmt: skip
    choices = json.loads(as_json.stdout)["choices"]
    assert [choice["text"] for choice in choices] == ["answer 0", "answer 1"]


def test_status_and_ping() -> None:
    with FakeRouter(word_handler) as router:
        status = chatloop("status", "--endpoint", router.endpoint)
        ping = chatloop("ping", "--endpoint", router.endpoint)
    lines = [line.rstrip() for line in status.stdout.splitlines()]
    assert lines[:10] == [
        "router       fake",
        "model        fake",
        "ready        yes",
        "counters     requests 7, routes_up 1",
        "running      2",
        "waiting      0",
        "uptime_us    10000000",
        "worker       w0: layers 0..7, sampler; ready, avx2 kernels, f16 KV cache",
        "             memory_bytes 67108864",
        "worker       w1: sampler; loading, avx2 kernels",
    ]
    assert lines[10:14] == [
        "             frames_executed 3, headers_bad 4",
        "route        3: up, 2 running; w0 75% busy, w1 0% busy",
        "             work_us 1000, kv_held 5, kv_blocks 20, in_flight 2",
        "queue_ms                 100 times, mean 2.5, half <= 2.5, 99% <= 2.5",
    ]
    assert lines[14] == "request      r\\u001b[2J: decode, 3 + 5 tokens, 1.5 s"
    assert lines[-1] == "   2.0 s ago  route 2 is down"
    assert re.fullmatch(r"router 0000000000000007: [\d.]+ ms\n", ping.stdout)


def test_an_error_is_one_line_and_an_exit_code() -> None:
    def refuse(router: FakeRouter, message: list[Any]) -> None:
        router.error(message[1], "queue_full", True)

    def refuse_for_now(router: FakeRouter, message: list[Any]) -> None:
        router.error(message[1], "queue_full", True, retry_after_ms=1500)

    with FakeRouter(refuse) as router:
        ended = chatloop("generate", "hi", "--endpoint", router.endpoint)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "chatloop: queue_full: no luck\n"

    with FakeRouter(refuse_for_now) as router:
        ended = chatloop("generate", "hi", "--endpoint", router.endpoint)
        endpoint = router.endpoint
    assert ended.stderr == "chatloop: queue_full: no luck; ask again in 1.5 s\n"

    ended = chatloop("ping", "--endpoint", endpoint, "--connect-timeout", "0.2")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (69, 1)
    assert ended.stderr.startswith("chatloop: unreachable: ")
    assert "check that one runs" in ended.stderr
    assert "scripts/quickstart.sh --keep starts one" in ended.stderr


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_request_and_ends_quietly(number: int, code: int) -> None:
    with FakeRouter(silent_handler) as router:
        process = subprocess.Popen(
            [*COMMAND, "generate", "hi", "--endpoint", router.endpoint],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert eventually(lambda: router.heard_of(SUBMIT), 15)
        process.send_signal(number)
        output = process.communicate(timeout=15)
        assert (process.returncode, *output) == (code, b"", b"")
        assert eventually(lambda: router.heard_of(CANCEL))


def test_a_reader_that_goes_cancels_the_request_and_ends_quietly() -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            router.accept(message[1], [1])
            router.piece(message[1], 0, [1], WORDS[0] + "\n", 0)

    with FakeRouter(handler) as router:
        process = subprocess.Popen(
            [*COMMAND, "generate", "hi", "--endpoint", router.endpoint],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"Paris\n"  # as `| head -1`
        process.stdout.close()
        [submit] = router.heard_of(SUBMIT)
        router.piece(submit[1], 1, [2], "more", 6)
        assert process.wait(15) == 1
        assert process.stderr.read() == b""
        process.stderr.close()
        assert eventually(lambda: router.heard_of(CANCEL))


def test_top_once_prints_a_table_and_json() -> None:
    with FakeRouter(word_handler) as router:
        options = ["--endpoint", router.endpoint, "--once", "--interval", "0.1"]
        table = chatloop("top", *options, "--requests")
        as_json = chatloop("top", *options, "--json")
    assert (table.returncode, table.stderr) == (0, "")
    assert "\x1b" not in table.stdout  # a request's id cannot write on the terminal
    assert "fake  fake  ready" in table.stdout
    rows = {line.split()[0]: line.split() for line in table.stdout.splitlines() if line.split()}
    assert rows["stage"][-1] == "KV"
    assert rows["w1"][1:3] == ["loading", "head"]
    assert "r\\u001b[2J" in table.stdout and "route 2 is down" in table.stdout
    shown = json.loads(as_json.stdout)
    assert [row["worker"] for row in shown["stages"]] == ["w0", "w0", "w1"]
    stage = shown["stages"][0]
    assert (stage["layers"], stage["queue"], stage["in_flight"]) == ([0, 7], 2, 2)
    assert (stage["kv_used"], stage["kv_blocks"]) == (5, 20)
    assert stage["memory_bytes"] == 64 << 20
    assert shown["header"]["running"] == 2


def test_trace_draws_a_waterfall() -> None:
    with FakeRouter(word_handler) as router:
        drawn = chatloop("trace", "known", "--endpoint", router.endpoint)
        as_json = chatloop("trace", "known", "--endpoint", router.endpoint, "--json")
        unknown = chatloop("trace", "a\x1b", "--endpoint", router.endpoint)
    lines = drawn.stdout.splitlines()
    assert lines[0].startswith("trace 0af7651916cd43dd8448eb211c80319c  request_id=known")
    bars = {line.split("  ")[0 if line[0] != " " else 1].strip(): line for line in lines[1:]}
    assert abs(bars["request"].count("█") - 4 * bars["queue"].count("░")) < 4
    assert lines[3].index("█") - lines[2].rindex("░") in (0, 1)  # decode begins where queue ends
    assert lines[4].endswith("8.0 busy, 0.2 queued, 2 frames")
    assert json.loads(as_json.stdout)["spans"][1][0] == "queue"
    assert unknown.returncode == 1
    assert unknown.stderr == (
        "chatloop: invalid_request: the router does not know request a\\u001b (any more)\n")


@pytest.mark.parametrize(("columns", "has"), [(80, False), (160, True)])
def test_a_narrow_terminal_gets_whole_columns_only(columns: int, has: bool) -> None:
    from chatloop.view.stages import stage_rows
    from chatloop.view.top import StageTable
    from rich.console import Console

    with FakeRouter(word_handler) as router, Client(router.endpoint) as client:
        rows = stage_rows(client.status())
    console = Console(width=columns, color_system=None)
    with console.capture() as printed:
        console.print(StageTable(rows))
    text = printed.get()
    assert ("wait" in text.splitlines()[0]) == has
    assert "bubble" in text.splitlines()[0] and "…" not in text
