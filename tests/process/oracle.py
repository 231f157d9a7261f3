"""An independent f64 forward pass of the llama architecture, straight from a GGUF file.

It shares no code with the splitter or the C++ side: it reads the file's native layout (rotated
neighbours, blocks as ggml stores them) and does everything in f64, except that it rounds where
docs/numerics.md says that values are quantized: activations to int8 per group of 32 (rule 1), keys
and values to f16 (rule 7). So it tells apart what f32 arithmetic costs from what is a mistake.

    logits(path, ids) -> (n, vocabulary) f64          bound(path, ids) -> Bound
    layer(path, index, x) -> (n, hidden) f64          layer_bound(path, index, x) -> Bound
    logprobs(path, ids) -> (n, vocabulary) f64        logprobs_bound(path, ids) -> Bound
    nll(path, ids) -> (n - 1,) f64

How far f32 may lie from f64 cannot be had by adding up roundings: where a value sits near the
middle between two int8 steps, any rounding flips it by a whole step, and the next layers amplify
that. Measured on SmolLM2-135M Q4_1 (64 rows, logit spread 3.5 in a row): perturbing every
operation by 1e-4 of an f32 rounding moves the logits of a row by 0.20 rms, by a full f32 rounding
0.20 rms as well (0.6 in the worst row, 1.4 in the worst logit). So a bound is sampled: the model is
run again with rounding-sized errors everywhere, and BOUND_FACTOR times the distances seen is it.
What it can see, on the same rows:
  - logits, quantized weights: mean row rms above about 0.40. A wrong RoPE base shows (0.79); two
    swapped rows of one matrix (0.14) or a wrong epsilon (0.18) do not.
  - one layer from given inputs: rounding moves the residual by 0.0002 to 0.0056 of the layer's
    update on average. Two swapped rows of wq show in layers 1 to 29 (0.009 to 0.045), not in
    layer 0 (0.0084).
  - logits, float weights: rounding moves a row by 0.0011 rms, 1/3000 of the spread; two swapped
    rows show (0.0085 against a bound of 0.0026), an epsilon of 1e-6 for 1e-5 does not.
Compare float models end to end, and quantized ones layer by layer.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Callable

import numpy as np
from gguf import GGUFReader

GROUP = 32
UNIT_ROUNDOFF_F32 = 2.0 ** -24
# Bounds: independent perturbed runs, rows to observe at least, and how far beyond f32 may lie.
PERTURBED_RUNS_MIN = 3
PERTURBED_RUNS_MAX = 12
OBSERVED_ROWS = 64
BOUND_FACTOR = 2.0


class Weight:
    """values (N, K) f64; reads_int8: the matrix is quantized, so its input is rounded to int8."""

    def __init__(self, tensor):
        rows = int(np.prod(tensor.shape[1:], dtype=np.int64))
        kind = tensor.tensor_type.name
        raw = np.asarray(tensor.data).reshape(-1).view(np.uint8)
        self.reads_int8 = kind.startswith("Q")
        self.values = _DECODERS[kind](raw).reshape(rows, -1)


def _scale(blocks: np.ndarray, byte: int) -> np.ndarray:
    return blocks[:, byte:byte + 2].copy().view("<f2").astype(np.float64)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.hstack([packed & 15, packed >> 4]).astype(np.float64)


def _decode_q4_0(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 18)
    return _scale(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def _decode_q4_1(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 20)
    return _scale(blocks, 0) * _nibbles(blocks[:, 4:]) + _scale(blocks, 2)


def _decode_q8_0(raw: np.ndarray) -> np.ndarray:
    blocks = raw.reshape(-1, 34)
    return _scale(blocks, 0) * blocks[:, 2:].view(np.int8)


_DECODERS = {
    "F32": lambda raw: raw.view("<f4").astype(np.float64),
    "F16": lambda raw: raw.view("<f2").astype(np.float64),
    "BF16": lambda raw: (raw.view("<u2").astype(np.uint32) << 16).view("<f4").astype(np.float64),
    "Q4_0": _decode_q4_0, "Q4_1": _decode_q4_1, "Q8_0": _decode_q8_0,
}


class Noise:
    """Adds errors of the size that f32 rounding makes; without a generator it adds none."""

    def __init__(self, generator: np.random.Generator | None = None):
        self._generator = generator

    def __call__(self, y: np.ndarray, terms: int) -> np.ndarray:
        """y (..., n), each value the sum of a chain of `terms` roundings.

        A chain's partial sums are about as large as the sums themselves, individually or (where a
        sum cancels) as the row's rms; independent roundings add up as the root of their number.
        """
        if self._generator is None:
            return y
        size = np.hypot(y, np.sqrt(np.mean(y * y, axis=-1, keepdims=True)))
        step = UNIT_ROUNDOFF_F32 * math.sqrt(terms) * size
        return y + step * self._generator.standard_normal(y.shape)


class Model:
    def __init__(self, path: str):
        reader = GGUFReader(path)
        arch = reader.get_field("general.architecture").contents()
        assert arch == "llama", arch

        def key(name, default=None):
            field = reader.get_field(f"{arch}.{name}")
            return default if field is None else field.contents()

        self.n_layers = key("block_count")
        self.n_heads = key("attention.head_count")
        self.n_kv_heads = key("attention.head_count_kv", self.n_heads)
        self.eps = float(key("attention.layer_norm_rms_epsilon"))
        hidden = key("embedding_length")
        self.head_dim = key("attention.key_length", hidden // self.n_heads)
        self.rot_dim = key("rope.dimension_count", self.head_dim)
        assert key("rope.scaling.type", "none") == "none", "the oracle knows plain RoPE only"
        self.rope_base = float(key("rope.freq_base", 10000.0))
        self.weights = {tensor.name: Weight(tensor) for tensor in reader.tensors}
        # Where a GGUF has no output matrix the embedding serves as one.
        self.weights.setdefault("output.weight", self.weights["token_embd.weight"])

    def logits(self, ids: list[int], noise: Noise = Noise()) -> np.ndarray:
        x = self.weights["token_embd.weight"].values[np.asarray(ids)]
        rotation = self._rotation(len(ids))
        for layer in range(self.n_layers):
            x = self._layer(layer, x, rotation, noise)
        return self._matmul("output.weight", self._norm("output_norm", x, noise), noise)

    def layer(self, index: int, x: np.ndarray, noise: Noise = Noise()) -> np.ndarray:
        return self._layer(index, x, self._rotation(len(x)), noise)

    def _layer(self, layer: int, x: np.ndarray, rotation: np.ndarray, noise: Noise) -> np.ndarray:
        name = f"blk.{layer}."
        xb = self._norm(name + "attn_norm", x, noise)
        q, k, v = (self._matmul(f"{name}attn_{which}.weight", xb, noise) for which in "qkv")
        att = self._attention(q, k, v, rotation, noise)
        x = noise(x + self._matmul(name + "attn_output.weight", att, noise), 1)
        xb = self._norm(name + "ffn_norm", x, noise)
        gate = self._matmul(name + "ffn_gate.weight", xb, noise)
        up = self._matmul(name + "ffn_up.weight", xb, noise)
        h = noise(gate / (1 + np.exp(-gate)) * up, 4)
        return noise(x + self._matmul(name + "ffn_down.weight", h, noise), 1)

    def _matmul(self, name: str, x: np.ndarray, noise: Noise) -> np.ndarray:
        weight = self.weights[name]
        if not weight.reads_int8:
            return noise(self._biased(name, x @ weight.values.T), x.shape[1])
        y = quantize_rows(x) @ weight.values.T
        return noise(self._biased(name, y), 2 * x.shape[1] // GROUP)

    def _biased(self, name: str, y: np.ndarray) -> np.ndarray:
        bias = self.weights.get(name.replace(".weight", ".bias"))
        return y if bias is None else y + bias.values.reshape(-1)

    def _norm(self, name: str, x: np.ndarray, noise: Noise) -> np.ndarray:
        scale = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + self.eps)
        return noise(x * scale * self.weights[name + ".weight"].values.reshape(-1), 4)

    def _rotation(self, positions: int) -> np.ndarray:
        """exp(i * angle), (positions, rot_dim / 2)."""
        frequencies = self.rope_base ** (-np.arange(0, self.rot_dim, 2) / self.rot_dim)
        return np.exp(1j * np.outer(np.arange(positions), frequencies))

    def _rotate(self, heads: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """heads (n, heads, head_dim); neighbours (2j, 2j + 1) turn as one complex number."""
        pairs = np.ascontiguousarray(heads[..., :self.rot_dim]).view(np.complex128)
        turned = (pairs * rotation[:, None, :]).view(np.float64)
        return np.concatenate([turned, heads[..., self.rot_dim:]], axis=-1)

    def _attention(self, q, k, v, rotation: np.ndarray, noise: Noise) -> np.ndarray:
        n = q.shape[0]
        q = self._rotate(q.reshape(n, self.n_heads, -1), rotation) / math.sqrt(self.head_dim)
        k = self._rotate(k.reshape(n, self.n_kv_heads, -1), rotation)
        q, k = noise(q, 4), noise(k, 3)
        k = to_f16(k)
        v = to_f16(v.reshape(n, self.n_kv_heads, -1))
        hidden = np.triu(np.ones((n, n), bool), 1)
        out = np.empty((n, self.n_heads, self.head_dim))
        for head in range(self.n_heads):
            kv_head = head // (self.n_heads // self.n_kv_heads)
            scores = noise(q[:, head] @ k[:, kv_head].T, self.head_dim)
            scores[hidden] = -np.inf
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = p @ v[:, kv_head] / p.sum(axis=1, keepdims=True)
        return noise(out.reshape(n, -1), n)


def quantize_rows(x: np.ndarray) -> np.ndarray:
    """Rule 1: what an int8 or int4 matrix reads instead of x (n, K)."""
    groups = x.reshape(x.shape[0], -1, GROUP)
    amax = np.abs(groups).max(axis=-1, keepdims=True)
    silent = amax < 1e-30
    inverse = np.where(silent, 0.0, 127 / np.where(silent, 1.0, amax))
    q = np.clip(np.rint(groups * inverse), -127, 127)
    return (q * (amax / 127)).reshape(x.shape)


def to_f16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -65504, 65504).astype(np.float16).astype(np.float64)


@dataclass(frozen=True)
class Bound:
    """How far a correct f32 result may lie from the f64 one. A row's distance is its rms."""

    mean_rms: float  # mean over the rows; the sharpest of the three, as chance averages out
    row_rms: float   # any row
    absolute: float  # any value

    def violation(self, actual: np.ndarray, expected: np.ndarray) -> str | None:
        """What is too far apart, or None. A value that is not finite is always too far."""
        found = distance(np.asarray(actual, np.float64) - expected)
        for name in ("mean_rms", "row_rms", "absolute"):
            if not getattr(found, name) <= getattr(self, name):
                return f"{name} {getattr(found, name):.6g} exceeds {getattr(self, name):.6g}"
        return None


def distance(difference: np.ndarray) -> Bound:
    rows = np.sqrt(np.mean(difference * difference, axis=1))
    return Bound(float(rows.mean()), float(rows.max()), float(np.abs(difference).max()))


def _sampled_bound(run: Callable[[Noise], np.ndarray], rows: int) -> Bound:
    exact = run(Noise())
    runs = min(PERTURBED_RUNS_MAX, max(PERTURBED_RUNS_MIN, -(-OBSERVED_ROWS // rows)))
    seen = [distance(run(Noise(np.random.default_rng(seed))) - exact) for seed in range(runs)]
    return Bound(*(BOUND_FACTOR * max(getattr(run_distance, name) for run_distance in seen)
                   for name in ("mean_rms", "row_rms", "absolute")))


@functools.lru_cache(maxsize=1)
def load(path: str) -> Model:
    return Model(path)


def logits(path: str, ids: list[int]) -> np.ndarray:
    """Row i: the logits after ids[0..i]."""
    return load(str(path)).logits(ids)


def bound(path: str, ids: list[int]) -> Bound:
    model = load(str(path))
    return _sampled_bound(lambda noise: model.logits(ids, noise), len(ids))


def layer(path: str, index: int, x: np.ndarray) -> np.ndarray:
    """What one layer makes of the residual rows x (n, hidden) at positions 0 .. n - 1."""
    return load(str(path)).layer(index, np.asarray(x, np.float64))


def layer_bound(path: str, index: int, x: np.ndarray) -> Bound:
    model, rows = load(str(path)), np.asarray(x, np.float64)
    return _sampled_bound(lambda noise: model.layer(index, rows, noise), len(rows))


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def logprobs(path: str, ids: list[int]) -> np.ndarray:
    """Row i: the log-probabilities of all tokens after ids[0..i]."""
    return log_softmax(logits(path, ids))


def logprobs_bound(path: str, ids: list[int], columns: np.ndarray | None = None) -> Bound:
    """Of logprobs(); of the tokens columns (n, k) of each row only where they are given."""
    model = load(str(path))

    def run(noise: Noise) -> np.ndarray:
        found = log_softmax(model.logits(ids, noise))
        return found if columns is None else np.take_along_axis(found, columns, axis=1)

    return _sampled_bound(run, len(ids))


def nll(path: str, ids: list[int]) -> np.ndarray:
    """Natural-log NLL of ids[i + 1] given ids[0..i]."""
    z, targets = logits(path, ids)[:-1], np.asarray(ids[1:])[:, None]
    slices = (slice(i, i + 64) for i in range(0, len(z), 64))  # a vocabulary is wide
    found = [np.take_along_axis(log_softmax(z[rows]), targets[rows], axis=1) for rows in slices]
    return -np.concatenate(found)[:, 0]
