"""What the benchmark reads from its peers' output and from arrival times, and how it judges."""

import os
import pathlib
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / folder) for folder in
                ("tests/bench", "tests/process", "tests/splitter", "python")]

from arrivals import decode_rate, whole_rate, window_rate  # noqa: E402
from peer_tools import Rate, find_peers, parse_batched, parse_bench  # noqa: E402
from process_costs import run_program  # noqa: E402
from targets import verdicts  # noqa: E402

BENCH = """main: some words first
[
  {"build_number": 1, "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 176.363992,
   "samples_ns": [ 362885867 ], "samples_ts": [ 176.364 ]},
  {"build_number": 1, "n_prompt": 0, "n_gen": 128, "n_depth": 0, "avg_ts": 73.996806,
   "samples_ns": [ 216225549 ], "samples_ts": [ 73.9968 ]}
]
"""
LLAMA_BATCHED = """
llama_batched_bench: n_kv_max = 8192, n_batch = 2048, flash_attn = 1, n_threads = 1

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |     64 |    1 |    192 |    0.188 |   170.31 |    0.097 |    82.14 |    0.285 |   140.21 |
|   128 |     64 |   32 |   6144 |    0.746 |   171.49 |    0.295 |   108.47 |    2.048 |   153.64 |

"""
OTHER_COLUMNS = """|B|PP|
|PP|TG|B|T s|S_TG t/s|S_PP t/s|
|128|64|4|2.0|50.5|99.0|
"""


def test_bench():
    assert parse_bench(BENCH) == [Rate(512, 0, 176.363992), Rate(0, 128, 73.996806)]


@pytest.mark.parametrize("parse", [parse_bench, parse_batched])
@pytest.mark.parametrize("text", ["", "error: unable to load model\n"])
def test_no_output_is_an_error(parse, text):
    with pytest.raises(ValueError, match="output"):
        parse(text)


def test_batched():
    one, many = parse_batched(LLAMA_BATCHED)
    assert (one.sequences, one.prefill_per_s, one.decode_per_s) == (1, 170.31, 82.14)
    assert (many.sequences, many.decode_per_s, many.whole_per_s) == (32, 108.47, 32 * 64 / 2.048)


def test_batched_columns_go_by_their_names():
    (rate,) = parse_batched(OTHER_COLUMNS)
    assert (rate.sequences, rate.decode_per_s, rate.prefill_per_s) == (4, 50.5, 99.0)
    assert rate.whole_per_s == 4 * 64 / 2.0


def test_rates_of_arrivals():
    arrivals = [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]
    assert whole_rate(arrivals) == 8 / 5.0
    assert decode_rate(arrivals, [[1.0], [2.0]]) == 6 / 3.0
    assert window_rate(arrivals) == 4 / 2.0  # after 2.0, to 4.0: two of each


def test_sequences_that_hardly_overlap_have_no_window():
    assert window_rate([[1.0, 2.0, 3.0, 4.0], [3.5, 5.0, 6.0, 7.0]]) is None
    assert window_rate([[1.0, 2.0], [3.0, 4.0]]) is None


def test_peers_that_are_there(tmp_path):
    bin_folder = tmp_path / "llama" / "build" / "bin"
    bin_folder.mkdir(parents=True)
    for tool in ("llama-bench", "llama-batched-bench"):
        (bin_folder / tool).touch()
    peers, missing = find_peers(tmp_path, with_huge_pages=True)
    assert [peer.name for peer in peers] == ["llama"]
    assert len(missing) == 1 and missing[0].startswith("ik is left out")
    assert find_peers(None, with_huge_pages=False)[0] == []


def verdict_of(results, what, suffixes=None):
    found = verdicts(results, suffixes or {"": "4KiB"})
    return next(verdict for verdict in found if verdict.what == what)


def test_the_median_and_the_best_count():
    results = {"decode 128 at 1024": {"cpud": [16.0, 90.0, 17.0], "llama -t 1": [10.0],
                                      "ik -t 1": [9.0, 11.0, 11.0]}}
    verdict = verdict_of(results, "decode at 1024")
    assert verdict.found == pytest.approx(17.0 / 11.0)
    assert not verdict.is_met and "MISSED" in verdict.line()
    results["decode 128 at 1024"]["cpud"] = [17.6]
    assert verdict_of(results, "decode at 1024").is_met


def test_roofline_of_the_pages_that_were_used():
    results = {"decode 128": {"cpud": [80.0], "cpud huge": [80.0]},
               "bytes a token, MB": {"cpud": [100.0], "cpud huge": [100.0]},
               "roofline 4KiB, GB/s": {"one core": [9.9]},
               "roofline 2MiB, GB/s": {"one core": [10.1]}}
    both = {"": "4KiB", " huge": "2MiB"}
    assert verdict_of(results, "decode 128 of the 4KiB roofline", both).is_met
    assert not verdict_of(results, "decode 128 of the 2MiB roofline", both).is_met


def test_losses_and_bounds():
    results = {"bus: 16 sequences on one core": {"cpud": [100.0], "2 stages": [98.0],
                                                 "3 stages": [96.9]},
               "memory beyond weights and KV pool, MiB": {"router": [50.0], "stage-0": [65.0]}}
    assert verdict_of(results, "bus: 2 stages on one core, 16 sequences").is_met
    assert not verdict_of(results, "bus: 3 stages on one core, 16 sequences").is_met
    memory = verdict_of(results, "memory beyond weights and KV, a process")
    assert (memory.found, memory.is_met) == (65.0, False)


def test_programs_and_their_words():
    outcome = run_program([sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr)"],
                          os.sched_getaffinity(0))
    assert (outcome.stdout, outcome.stderr) == ("1\n", "2\n")
    assert outcome.peak_rss_mib > 1 and outcome.switches > 0
    with pytest.raises(RuntimeError, match="ended with 3"):
        run_program([sys.executable, "-c", "raise SystemExit(3)"], os.sched_getaffinity(0))


def test_what_was_not_measured_has_no_verdict():
    assert verdicts({"decode 128": {"cpud": [1.0]}}, {"": "4KiB"}) == []
