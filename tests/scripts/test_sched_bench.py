"""What sched_bench.py makes of times, counters and an HTTP server's events, and how it judges."""

import contextlib
import http.server
import json
import pathlib
import sys
import threading

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / folder) for folder in
                ("tests/bench", "tests/process", "tests/splitter", "python")]

from busy import hop_times  # noqa: E402
from chatloop.bench.metrics import Outcome  # noqa: E402
from llama_server import LlamaServer  # noqa: E402
from rows import HOSTED_STAGES  # noqa: E402
from sched_cases import AGAIN_ROW, BEFORE_ROW, DURING_ROW, FIRST_ROW, LLAMA, RATE_ROW  # noqa: E402
from sched_targets import verdicts  # noqa: E402
from serving import gaps_s, lengths_ms  # noqa: E402


def test_a_stall_that_is_not_over_shows():
    running = Outcome(0.0, [1.0, 1.5, 4.0])
    over = Outcome(0.0, [1.0, 1.25], end_s=1.25)
    waiting = Outcome(0.0)
    gaps = gaps_s([running, over, waiting], 9.0)
    assert gaps == [(1.0, 1.5), (1.5, 4.0), (4.0, 9.0), (1.0, 1.25)]
    assert lengths_ms(gaps) == [500, 2500, 5000, 250]


def test_busy_times_of_a_process_are_those_of_its_hops():
    hops = [{"worker": "stage-0", "busy_us": 5}, {"worker": "stage-1", "busy_us": 7},
            {"worker": "stage-1", "busy_us": 2}]
    assert dict(hop_times({"routes": [{"counters": {"work_us": 20}, "hops": hops}]})) == {
        "stage-0": (5, 20), "stage-1": (9, 20)}
    assert dict(hop_times({})) == {}


@pytest.mark.parametrize(("before", "during", "is_met"), [
    (10.0, 59.0, True), (10.0, 61.0, False), (50.0, 99.0, True), (50.0, 101.0, False)])
def test_a_stall_is_held_against_the_larger_bound(before, during, is_met):
    results = {BEFORE_ROW: {HOSTED_STAGES: [before]}, DURING_ROW: {HOSTED_STAGES: [during]}}
    (verdict,) = verdicts(results)
    assert verdict.is_met == is_met and ("MISSED" in verdict.line()) != is_met


def test_ratios():
    (verdict,) = verdicts({RATE_ROW: {HOSTED_STAGES: [399.0, 401.0, 410.0], LLAMA: [100.0]}})
    assert verdict.is_met and ">=" in verdict.line()
    for again, is_met in ((149.0, True), (151.0, False)):
        (verdict,) = verdicts({FIRST_ROW: {HOSTED_STAGES: [1000.0]},
                               AGAIN_ROW: {HOSTED_STAGES: [again]}})
        assert verdict.is_met == is_met and "<=" in verdict.line()


# ---- the client of llama-server ----


class Completion(http.server.BaseHTTPRequestHandler):
    """Answers as llama-server does: chunked, an event in each chunk."""

    protocol_version = "HTTP/1.1"
    asked: list[dict] = []

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(asked)
        if not asked["prompt"]:
            body = b'{"error":{"code":400,"message":"no prompt"}}'
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in range(asked["n_predict"]):
            self.event({"content": "a", "tokens": [token], "stop": False})
        self.event({"content": "", "tokens": [], "stop": False})
        self.event({"content": "", "stop": True, "tokens_predicted": asked["n_predict"],
                    "tokens_evaluated": len(asked["prompt"])})
        self.wfile.write(b"0\r\n\r\n")

    def event(self, told):
        chunk = f"data: {json.dumps(told)}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    def log_message(self, *_):
        pass


@pytest.fixture
def llama():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Completion) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with contextlib.closing(server.socket):
            Completion.asked.clear()
            yield LlamaServer(server.server_address[1], cache_prompt=False)
            server.shutdown()
            thread.join()


def test_a_closed_loop_over_http(llama):
    requests = [{"token_ids": [1] * n, "max_tokens": 3 + n} for n in range(1, 9)]
    outcomes = llama.closed_loop(requests, 3)
    assert sorted(o.prompt_tokens for o in outcomes) == list(range(1, 9))
    for outcome in outcomes:
        assert outcome.output_tokens == len(outcome.piece_s) == 3 + outcome.prompt_tokens
        times = [outcome.start_s, *outcome.piece_s, outcome.end_s]
        assert times == sorted(times)
    for asked in Completion.asked:
        assert asked["ignore_eos"] is True and asked["cache_prompt"] is False


def test_a_newcomer_over_http(llama):
    streams, late = llama.newcomer([{"token_ids": [1], "max_tokens": 5}] * 2, 2, 0.0,
                                   {"token_ids": [1, 2], "max_tokens": 1})
    assert [stream.output_tokens for stream in streams] == [5, 5] and late.output_tokens == 1


def test_what_the_server_refuses_is_an_error(llama):
    with pytest.raises(RuntimeError, match="no prompt"):
        llama.closed_loop([{"token_ids": [], "max_tokens": 1}], 1)
