"""Quantization, the cut, and the RoPE table."""

import itertools
import math

import numpy as np
import pytest
from tiny_gguf import CONTEXT, HEAD_DIM, write_gguf

from model_splitter.convert import Converter
from model_splitter.errors import SplitError
from model_splitter.gguf_source import GgufSource
from model_splitter.plan import make_plan
from model_splitter.quantize import quantize_int4, quantize_int8
from model_splitter.rope import RopeScaling, inverse_frequencies, rope_table


def relative_rms(found, expected):
    return np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())


def round_to_nearest_int4(weights):
    """The plain method: the range of the group cut in 15 steps."""
    groups = weights.reshape(len(weights), -1, 32).astype(np.float64)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    scale = np.where(high > low, (high - low) / 15, 1)
    return (np.rint((groups - low) / scale) * scale + low).reshape(weights.shape)


def test_int8_and_int4_errors_are_those_of_the_bit_width():
    weights = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    assert relative_rms(quantize_int8(weights, "w").dequantize(), weights) < 0.006
    int4 = relative_rms(quantize_int4(weights, "w").dequantize(), weights)
    assert 0.05 < int4 < 0.95 * relative_rms(round_to_nearest_int4(weights), weights)


def test_quantizing_edge_groups():
    weights = np.zeros((6, 32), np.float32)
    weights[1] = 3.0                      # constant
    weights[2, 5] = -7.0                  # one weight
    weights[3] = 1e-12                    # under the smallest f16
    weights[4] = np.linspace(100, 101, 32)
    weights[5, 0], weights[5, 1] = 60000, -60000
    for quantize, steps in ((quantize_int8, 254), (quantize_int4, 15)):
        found = quantize(weights, "w").dequantize()
        assert np.isfinite(found).all()
        reach = np.abs(weights).max(1) * 2 if steps == 254 else np.ptp(weights, axis=1)
        # Half a step, and what rounding scale and minimum to f16 costs at the far end.
        slack = reach / steps * 0.51 + np.abs(weights).max(1) * 2.0 ** -9 + 1e-7
        assert (np.abs(found - weights).max(1) <= slack).all()
    with pytest.raises(SplitError, match="too large"):
        quantize_int8(np.full((1, 32), 1e8 * 127, np.float32), "w")


@pytest.mark.parametrize("mode, layers, embedding", [("int8", "q8", "q8"), ("int4", "q4m", "q8")])
def test_modes_choose_the_forms(tmp_path, mode, layers, embedding):
    source = GgufSource(write_gguf(tmp_path / "m.gguf"))
    converter = Converter(source, mode, lambda: None)
    converter.write_partition(tmp_path / "p", 0, 4).finish({})
    lines = "\n".join(f"{k} {v}" for k, v in converter.identity._lines.items())
    assert f"tensor layers.3.w2 {layers} 64x96" in lines
    assert f"tensor embed {embedding} 10x64" in lines
    assert 0 < converter.error.relative_rms < 0.1 and not converter.error.requantized


def test_requantizing_is_noticed_and_what_fits_is_kept(tmp_path):
    for kind, mode, requantized, kept in (("Q4_1", "int8", {"q4m"}, set()),
                                          ("Q8_0", "int8", set(), {"q8"}),
                                          ("Q4_1", "int4", set(), {"q4m"}),
                                          ("Q8_0", "int4", {"q8"}, {"q8"})):
        source = GgufSource(write_gguf(tmp_path / "m.gguf", kind))
        converter = Converter(source, mode, lambda: None)
        converter.write_partition(tmp_path / "p", 0, 4).finish({})
        assert (converter.error.requantized, converter.error.kept) == (requantized, kept)


@pytest.mark.parametrize("sampler", ["own", "last"])
def test_the_cut_is_the_best_of_all_cuts(sampler):
    rng = np.random.default_rng(3)
    for layers, parts in itertools.product((5, 8), (1, 2, 3, 5)):
        costs = [int(c) for c in rng.integers(1, 20, layers)]
        head = 17
        extra = head // 2 if sampler == "last" else 0  # not every token passes the head

        def score(cuts):
            edges = (0, *cuts, layers)
            loads = [sum(costs[a:b]) for a, b in zip(edges, edges[1:])]
            loads[-1] += extra
            return max(loads), sum(load * load for load in loads)

        plan = make_plan(costs, head, parts, sampler)
        best = min(score(cuts) for cuts in itertools.combinations(range(1, layers), parts - 1))
        assert score([end for _, end in plan.ranges[:-1]]) == best
        assert sum(plan.costs) == sum(costs) + head


def test_smollm2_on_two_cores_is_cut_17_to_13():
    layer, head = 3538944, 49152 * 576
    assert make_plan([layer] * 30, head, 2, "last").ranges == [(0, 17), (17, 30)]
    assert make_plan([layer] * 30, head, 2, "own").ranges == [(0, 15), (15, 30)]
    assert len(make_plan([layer] * 30, head, 30, "last").ranges) == 30


def test_rope_table_is_correctly_rounded_f64():
    cos, sin = rope_table(CONTEXT, HEAD_DIM, 10000.0, RopeScaling())
    assert cos.shape == sin.shape == (CONTEXT, HEAD_DIM // 2) and cos.dtype == np.float32
    for position, i in ((0, 0), (1, 3), (31, 7)):
        angle = position * 10000.0 ** (-2 * i / HEAD_DIM)
        assert cos[position, i] == np.float32(math.cos(angle))
        assert sin[position, i] == np.float32(math.sin(angle))


def test_rope_scalings():
    plain = inverse_frequencies(64, 10000.0, RopeScaling())
    linear = inverse_frequencies(64, 10000.0, RopeScaling("linear", 4.0))
    assert linear == [f / 4 for f in plain]
    divisors = [1.0 + i for i in range(32)]
    assert inverse_frequencies(64, 10000.0, RopeScaling("llama3", divisors=divisors)) == [
        f / d for f, d in zip(plain, divisors)]
    yarn = RopeScaling("yarn", 16.0, original_context=4096)
    scaled = inverse_frequencies(64, 10000.0, yarn)
    assert scaled[0] == plain[0]                                   # fast: kept
    assert scaled[-1] == pytest.approx(plain[-1] / 16, rel=1e-12)  # slow: divided
    assert all(p / 16 <= s <= p for p, s in zip(plain, scaled))
    cos, _ = rope_table(1, 64, 10000.0, yarn)
    assert cos[0, 0] == np.float32(1 + 0.1 * math.log(16))


def test_llama3_divisors_come_from_the_file(tmp_path):
    divisors = np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)
    source = GgufSource(write_gguf(tmp_path / "m.gguf", tensors={"rope_freqs.weight": divisors}))
    assert source.spec.rope_scaling == RopeScaling("llama3", divisors=[float(d) for d in divisors])
