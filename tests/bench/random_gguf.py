"""A GGUF with random weights in the shape of a model whose own files we cannot split yet.

    scripts/python.sh tests/bench/random_gguf.py FILE.gguf [--quant Q4_0]

Llama architecture in the shape of Qwen2.5-Coder-1.5B: q, k and v have biases, the head is the
embedding. The layers are Q4_0 or Q4_1 and the head is Q8_0, about as many bytes a token as a Q4_K_M
file of that model. Its text is nonsense; its speed is that of the shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 1536, 8960, 28, 12, 2, 128
VOCAB, CONTEXT, GROUP = 151936, 32768, 32
QUANTS = ("Q4_0", "Q4_1")

Q, KV = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
LAYER_SHAPES = {"attn_q": (Q, HIDDEN), "attn_k": (KV, HIDDEN), "attn_v": (KV, HIDDEN),
                "attn_output": (HIDDEN, Q), "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN),
                "ffn_down": (HIDDEN, FFN)}
BIASED = ("attn_q", "attn_k", "attn_v")


def tokens() -> list[str]:
    """A control token, GPT-2's letters for the 256 bytes, one merge, and fillers."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [256 + i for i in range(256 - len(plain))]
    made = ["<|endoftext|>", *map(chr, plain + shifted), "ab"]
    return made + [f"filler{i}" for i in range(VOCAB - len(made))]


def quantized(rng: np.random.Generator, kind: str, rows: int, cols: int) -> np.ndarray:
    """Blocks of random weights with a standard deviation of about 1 / sqrt(cols): bytes by row."""
    groups = rows * cols // GROUP
    deviation = {"Q4_0": 4.61, "Q4_1": 4.61, "Q8_0": 73.6}[kind]  # of the integers
    scale = np.float16(1.0 / (deviation * np.sqrt(cols)))
    parts = [np.full((groups, 1), scale, "<f2").view(np.uint8)]
    if kind == "Q4_1":
        parts.append(np.full((groups, 1), np.float16(-7.5 * scale), "<f2").view(np.uint8))
    values = GROUP if kind == "Q8_0" else GROUP // 2
    parts.append(rng.integers(0, 256, (groups, values), np.uint8))
    if kind == "Q8_0":
        parts[-1][parts[-1] == 0x80] = 0  # -128 is not used
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def write(path: Path, kind: str = "Q4_0", seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_name("random weights, 1.5B")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000000.0)
    names = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types([3] + [1] * (len(names) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)

    def matrix(name: str, as_kind: str, rows: int, cols: int) -> None:
        writer.add_tensor(f"{name}.weight", quantized(rng, as_kind, rows, cols),
                          raw_dtype=GGMLQuantizationType[as_kind])

    matrix("token_embd", "Q8_0", VOCAB, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, (rows, cols) in LAYER_SHAPES.items():
            matrix(f"blk.{layer}.{name}", kind, rows, cols)
            if name in BIASED:
                bias = rng.normal(size=rows).astype(np.float32) / 8
                writer.add_tensor(f"blk.{layer}.{name}.bias", bias)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--quant", choices=QUANTS, default="Q4_0")
    options = parser.parse_args()
    write(options.file, options.quant)


if __name__ == "__main__":
    main()
