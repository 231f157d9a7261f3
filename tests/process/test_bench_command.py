"""`chatloop bench` against real processes: short, for its figures, not for theirs."""

from __future__ import annotations

import json

import pytest
from chatloop.cli import main
from counts import counts

# The tiny model has ten tokens.
OPTIONS = ["--num-prompts", "24", "--vocab-size", "10", "--input-len", "uniform:1:90",
           "--output-len", "lognormal:8:0.5:20", "--prefix-len", "64", "--clients", "2", "--json"]


@pytest.mark.parametrize("load", [["--concurrency", "1,8"], ["--request-rate", "100"]])
def test_bench(tiny_cluster, witness, capsys, load):
    before = counts(witness)
    code = main(["bench", "--endpoint", tiny_cluster.endpoints["front"], *OPTIONS, *load])
    assert code == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == len(load[1].split(","))
    after = counts(witness)
    warmups = 4
    assert after["requests"] - before["requests"] == 24 * len(results) + warmups
    for result in results:
        assert (result["completed"], result["failed"]) == (24, 0)
        assert 24 * 65 <= result["total_input_tokens"] <= 24 * 154
        assert 24 <= result["total_output_tokens"] <= 24 * 20
        assert 0 < result["mean_ttft_ms"] <= result["p99_e2el_ms"]
        assert result["output_throughput"] > 0
