"""The partition files: values, layout, identity, determinism."""

import hashlib
import json

import numpy as np
import pytest
from gguf import GGUFReader, dequantize
from safetensors import safe_open
from tiny_gguf import HEAD_DIM, HEADS, KV_HEADS, LAYERS, TOKENS, write_gguf

from model_splitter.container import read_header
from model_splitter.split_model import main

KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"]
MATRICES = {"wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
            "w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"}


def split(model, output, *options):
    assert main(["--quiet", "--model", str(model), "--output", str(output), *options]) == 0
    return json.loads((output / "partition_metadata.json").read_text())


def load_all(folder):
    """Every stored tensor of a directory, read by the safetensors library; bf16 as raw uint16."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        header, start = read_header(path)
        with safe_open(path, "np") as stream:
            for name in stream.keys():
                if header[name]["dtype"] == "BF16":  # numpy has no such type
                    first, end = header[name]["data_offsets"]
                    raw = path.read_bytes()[start + first:start + end]
                    tensors[name] = np.frombuffer(raw, "<u2").reshape(header[name]["shape"])
                else:
                    tensors[name] = stream.get_tensor(name)
    return tensors


def widen(stored):
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def element(tensors, name, n, k):
    """w[n][k] of a panel matrix, by the index formulas of docs/model_format.md alone."""
    p, i = divmod(n, 16)
    if f"{name}.weight" in tensors:
        return widen(tensors[f"{name}.weight"][p, k, i])
    g, r = divmod(k, 32)
    scales = tensors[f"{name}.scales"].astype(np.float32)
    if f"{name}.q8" in tensors:
        return scales[p, g, i] * np.float32(tensors[f"{name}.q8"][p, g, r // 4, i, r % 4])
    byte = int(tensors[f"{name}.q4"][p, g, (r % 16) // 4, i, r % 4])
    q = byte & 15 if r < 16 else byte >> 4
    if scales.ndim == 3:
        return scales[p, g, i] * np.float32(q - 8)
    return scales[p, g, 0, i] * np.float32(q) + scales[p, g, 1, i]


def matrix_of(tensors, name, rows, cols):
    return np.array([[element(tensors, name, n, k) for k in range(cols)] for n in range(rows)])


def half_split(rows, heads):
    """Llama's rotated neighbours, row by row, in the order that a head is rotated by halves."""
    out = np.empty_like(rows)
    for head in range(heads):
        for j in range(HEAD_DIM // 2):
            for part in range(2):
                out[head * HEAD_DIM + part * HEAD_DIM // 2 + j] = rows[head * HEAD_DIM +
                                                                      2 * j + part]
    return out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_comes_back_exactly(tmp_path, kind, tied):
    path = write_gguf(tmp_path / "m.gguf", kind, tied=tied, biases=True)
    source = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}
    split(path, tmp_path / "out", "--num-partitions", "2")
    tensors = load_all(tmp_path / "out")
    for layer in (0, LAYERS - 1):
        for name, gguf_name in MATRICES.items():
            expected = source[f"blk.{layer}.{gguf_name}.weight"]
            if name in ("wq", "wk"):
                expected = half_split(expected, HEADS if name == "wq" else KV_HEADS)
            found = matrix_of(tensors, f"layers.{layer}.{name}", *expected.shape)
            np.testing.assert_array_equal(found, expected)
        for name, heads in (("bq", HEADS), ("bk", KV_HEADS)):
            expected = half_split(source[f"blk.{layer}.attn_{name[1]}.bias"], heads)
            np.testing.assert_array_equal(tensors[f"layers.{layer}.{name}"], expected)
        for name in ("attn_norm", "ffn_norm"):
            np.testing.assert_array_equal(tensors[f"layers.{layer}.{name}"],
                                          source[f"blk.{layer}.{name}.weight"])
    head = source["token_embd.weight" if tied else "output.weight"]
    np.testing.assert_array_equal(matrix_of(tensors, "head", *head.shape), head)
    np.testing.assert_array_equal(tensors["norm"], source["output_norm.weight"])
    np.testing.assert_array_equal(embedding_of(tensors), source["token_embd.weight"])


def embedding_of(tensors):
    if "embed.weight" in tensors:
        return widen(tensors["embed.weight"])
    scales = tensors["embed.scales"].astype(np.float32)
    if "embed.q8" in tensors:
        return tensors["embed.q8"] * np.repeat(scales, 32, axis=1)
    packed = tensors["embed.q4"]
    q = np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float32)
    if scales.ndim == 2:
        values = (q - 8) * scales[..., None]
    else:
        values = q * scales[..., :1] + scales[..., 1:]
    return values.reshape(len(packed), -1)


def test_rows_that_pad_the_last_panel_are_zero(tmp_path):
    split(write_gguf(tmp_path / "m.gguf", "Q4_1"), tmp_path / "out")
    tensors = load_all(tmp_path / "out")
    used = len(TOKENS)
    assert used < 16 and tensors["head.q4"].shape[0] == 1
    assert tensors["head.q4"][0, :, :, :used].any()
    assert not tensors["head.q4"][0, :, :, used:].any()
    assert not tensors["head.scales"][..., used:].any()


def test_files_are_aligned_and_without_holes(tmp_path):
    split(write_gguf(tmp_path / "m.gguf", "Q8_0"), tmp_path / "out", "--num-partitions", "3")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        header, start = read_header(path)
        assert start % 4096 == 0
        end = 0
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            assert entry["data_offsets"][0] == end
            end = entry["data_offsets"][1]
            assert name.startswith("pad.") or entry["data_offsets"][0] % 64 == 0
        assert start + end == path.stat().st_size


def test_the_same_input_gives_the_same_bytes_and_a_second_run_replaces(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", "Q4_0")

    def digests(folder):
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
                for f in sorted(folder.rglob("*")) if f.is_file()}

    split(path, tmp_path / "a", "--num-partitions", "4")
    split(path, tmp_path / "a", "--num-partitions", "2")
    split(path, tmp_path / "b", "--num-partitions", "2")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert "partition_2.safetensors" not in digests(tmp_path / "a")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b", "m.gguf"]


def test_model_id_is_independent_of_the_cut_and_depends_on_everything_else(tmp_path):
    path = write_gguf(tmp_path / "m.gguf")
    cuts = [split(path, tmp_path / f"{n}", "--num-partitions", str(n)) for n in (1, 2, 3, 4)]
    assert len({cut["model_id"] for cut in cuts}) == 1
    assert len({cut["cut_id"] for cut in cuts}) == 4
    assert len(cuts[0]["model_id"]) == 32 and len(cuts[0]["cut_id"]) == 16
    others = [dict(kind="F16"), dict(seed=1), dict(tied=False), dict(biases=True),
              dict(keys={"llama.rope.freq_base": 5000.0}),
              dict(keys={"llama.attention.layer_norm_rms_epsilon": 1e-6}),
              dict(keys={"llama.attention.scale": 0.5})]
    ids = {cuts[0]["model_id"]}
    for i, change in enumerate(others):
        changed = write_gguf(tmp_path / f"other{i}.gguf", **{"kind": "F32", **change})
        ids.add(split(changed, tmp_path / f"other{i}")["model_id"])
    assert len(ids) == 1 + len(others)


def test_metadata_names_every_file_and_floats_are_exact(tmp_path):
    metadata = split(write_gguf(tmp_path / "Tiny-1B.Q4_1.gguf"), tmp_path / "out",
                     "--num-partitions", "3", "--sampler", "own")
    assert metadata["model_name"] == "Tiny-1B"
    assert [(p["layer_first"], p["layer_end"]) for p in metadata["partitions"]] in (
        [(0, 2), (2, 3), (3, 4)], [(0, 1), (1, 3), (3, 4)], [(0, 1), (1, 2), (2, 4)])
    assert [p["has_embedding"] for p in metadata["partitions"]] == [True, False, False]
    for entry in [*metadata["partitions"], metadata["head"], *metadata["tokenizer"]]:
        raw = (tmp_path / "out" / entry["file"]).read_bytes()
        assert entry["bytes"] == len(raw)
        assert entry["sha256"] == hashlib.sha256(raw).hexdigest()
    assert np.float32(metadata["norm_eps"]) == np.float32(1e-5)
    assert metadata["norm_eps"] == float(np.float32(1e-5))
    assert metadata["attn_scale"] == 0.25
    assert (metadata["stop_ids"], metadata["bos_id"], metadata["eos_id"]) == ([0, 1], 0, 1)


def test_verify_finds_one_flipped_bit(tmp_path):
    out = tmp_path / "out"
    split(write_gguf(tmp_path / "m.gguf"), out, "--num-partitions", "2")
    assert main(["--quiet", "--verify", str(out)]) == 0
    for name in ("partition_1.safetensors", "partition_head.safetensors",
                 "tokenizer/tokenizer.json"):
        raw = (out / name).read_bytes()
        damaged = bytearray(raw)
        damaged[-100] ^= 1
        (out / name).write_bytes(damaged)
        assert main(["--quiet", "--verify", str(out)]) == 64
        (out / name).write_bytes(raw)
    (out / "partition_0.safetensors").unlink()
    assert main(["--quiet", "--verify", str(out)]) == 64
