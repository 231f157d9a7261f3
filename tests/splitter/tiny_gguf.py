"""A small llama-architecture GGUF with known weights, of any supported type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 96, 4, 4, 2, 16
CONTEXT = 32

# A vocabulary that a byte-level BPE accepts, two control tokens first, as SmolLM2 has them.
TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "c", "Ġ", "ab", "Ġc", "1", "2"]
TYPES = [3, 3] + [1] * (len(TOKENS) - 2)
MERGES = ["a b", "Ġ c"]


def layer_shapes(hidden: int = HIDDEN) -> dict[str, tuple[int, int]]:
    """Extents (outputs, inputs) of a layer's matrices, by GGUF name; heads share the width."""
    q, kv = hidden, hidden // HEADS * KV_HEADS
    return {"attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden),
            "attn_output": (hidden, q), "ffn_gate": (FFN, hidden), "ffn_up": (FFN, hidden),
            "ffn_down": (hidden, FFN)}


def default_keys(hidden: int) -> dict[str, object]:
    return {
        "llama.block_count": LAYERS, "llama.context_length": CONTEXT,
        "llama.embedding_length": hidden, "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": TYPES,
        "tokenizer.ggml.merges": MERGES, "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }


def write_gguf(path: Path, kind: str = "F32", *, keys: dict[str, object] | None = None,
               tensors: dict[str, np.ndarray] | None = None, drop: tuple[str, ...] = (),
               tied: bool = True, biases: bool = False, seed: int = 0,
               embedding_kind: str | None = None, arch: str = "llama", hidden: int = HIDDEN,
               raw: dict[str, tuple[np.ndarray, str]] | None = None) -> Path:
    """keys override or (None) remove; tensors add or replace; drop leaves tensors out; raw gives
    the bytes and the type of a tensor."""
    tensors, raw = tensors or {}, raw or {}
    drop = (*drop, *tensors)
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, arch)
    for name, value in {**default_keys(hidden), **(keys or {})}.items():
        if value is not None:
            _add_key(writer, name, value)

    def add(name: str, values: np.ndarray, as_kind: str) -> None:
        if name in drop:
            return
        if name in raw:
            data, as_kind = raw[name]
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[as_kind])
            return
        raw_type = GGMLQuantizationType[as_kind]
        writer.add_tensor(name, quantize(values.astype(np.float32), raw_type), raw_dtype=raw_type)

    add("token_embd.weight", rng.normal(size=(len(TOKENS), hidden)), embedding_kind or kind)
    add("output_norm.weight", 1 + rng.normal(size=hidden) / 8, "F32")
    if not tied:
        add("output.weight", rng.normal(size=(len(TOKENS), hidden)), embedding_kind or kind)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{norm}.weight", 1 + rng.normal(size=hidden) / 8, "F32")
        for name, shape in layer_shapes(hidden).items():
            add(f"blk.{layer}.{name}.weight", rng.normal(size=shape) / np.sqrt(shape[1]), kind)
            if biases and name.startswith("attn"):
                add(f"blk.{layer}.{name}.bias", rng.normal(size=shape[0]) / 8, "F32")
    drop = ()
    for name, values in tensors.items():
        add(name, values, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_key(writer: GGUFWriter, name: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
