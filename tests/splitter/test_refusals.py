"""What cannot be split is refused by name: one line, exit code 64, nothing written."""

import numpy as np
import pytest
from tiny_gguf import HEADS, HIDDEN, TOKENS, TYPES, write_gguf

from model_splitter.split_model import main


def refusal(capsys, model, output, *options):
    assert main(["--quiet", "--model", str(model), "--output", str(output), *options]) == 64
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("split_model.py: ")
    assert not output.exists()
    assert not list(output.parent.glob(".*"))
    return text


@pytest.mark.parametrize("key, value, named", [
    ("llama.expert_count", 8, "llama.expert_count = 8"),
    ("llama.attention.sliding_window", 4096, "sliding_window = 4096"),
    ("llama.rope.scaling.type", "longrope", "longrope"),
    ("llama.rope.scaling.factor", 0.0, "rope.scaling.factor"),
    ("llama.some_new_feature", 1, "llama.some_new_feature"),
    ("llama.attention.causal", False, "attention.causal"),
    ("llama.block_count", None, "llama.block_count is missing"),
    ("llama.block_count", 0, "llama.block_count = 0"),
    ("llama.block_count", 1 << 24, "blk.16777215.attn_norm.weight is missing"),
    ("llama.block_count", 3, "blk.3.attn_norm.weight is not supported"),
    ("llama.attention.head_count", [4, 4, 4, 4], "head_count = [4, 4, 4, 4]"),
    ("llama.attention.head_count_kv", 3, "3 KV heads"),
    ("llama.attention.value_length", 8, "value_length"),
    ("llama.rope.dimension_count", 18, "18 of 16 rotated"),
    ("tokenizer.ggml.pre", "default", "tokenizer.ggml.pre default"),
    ("tokenizer.ggml.pre", None, "tokenizer.ggml.pre None"),
    ("tokenizer.ggml.model", "llama", "tokenizer.ggml.model llama"),
    ("tokenizer.ggml.merges", None, "tokenizer.ggml.merges is missing"),
    ("tokenizer.ggml.merges", ["a b", "x y"], "tokenizer.ggml.merges do not fit"),
    ("tokenizer.ggml.merges", ["a b c"], "tokenizer.ggml.merges holds"),
    ("tokenizer.ggml.token_type", TYPES[:-1], "9 token types"),
    ("tokenizer.ggml.tokens", ["a"] * len(TOKENS), "a token twice"),
    ("tokenizer.ggml.tokens", TOKENS[:-1], "9 tokens"),
    ("tokenizer.ggml.eos_token_id", 4000, "eos_token_id = 4000"),
    ("tokenizer.ggml.add_eos_token", True, "add_eos_token"),
    ("split.count", 2, "split.count 2"),
])
def test_keys(tmp_path, capsys, key, value, named):
    model = write_gguf(tmp_path / "m.gguf", keys={key: value})
    assert named in refusal(capsys, model, tmp_path / "out")


def test_architecture(tmp_path, capsys):
    model = write_gguf(tmp_path / "m.gguf", arch="gemma")
    assert "general.architecture gemma" in refusal(capsys, model, tmp_path / "out")


@pytest.mark.parametrize("kind, block, block_bytes", [("Q5_0", 32, 22), ("Q8_K", 256, 292),
                                                      ("Q4_K", 256, 144)])
def test_tensor_types(tmp_path, capsys, kind, block, block_bytes):
    width = 256  # the least that a K-quant block fills
    raw = np.zeros((width, width // block * block_bytes), np.uint8)
    model = write_gguf(tmp_path / "m.gguf", raw={"blk.0.attn_q.weight": (raw, kind)}, hidden=width,
                       keys={"llama.attention.key_length": width // HEADS,
                             "llama.attention.value_length": width // HEADS})
    assert f"blk.0.attn_q.weight has type {kind}" in refusal(capsys, model, tmp_path / "out")


def test_missing_and_unknown_tensors(tmp_path, capsys):
    model = write_gguf(tmp_path / "a.gguf", drop=("blk.2.ffn_up.weight",))
    assert "blk.2.ffn_up.weight is missing" in refusal(capsys, model, tmp_path / "out")
    model = write_gguf(tmp_path / "b.gguf", tensors={"blk.0.ffn_up.bias": np.zeros(96)})
    assert "blk.0.ffn_up.bias" in refusal(capsys, model, tmp_path / "out")
    model = write_gguf(tmp_path / "c.gguf", keys={"llama.feed_forward_length": 128})
    assert "shape" in refusal(capsys, model, tmp_path / "out")
    model = write_gguf(tmp_path / "d.gguf", drop=("output_norm.weight",),
                       tensors={"output_norm.weight": np.full(HIDDEN, np.nan)})
    text = refusal(capsys, model, tmp_path / "out")
    assert "output_norm.weight holds a value that is not finite" in text


def test_damaged_files(tmp_path, capsys):
    assert "missing.gguf" in refusal(capsys, tmp_path / "missing.gguf", tmp_path / "out")
    assert "directory" in refusal(capsys, tmp_path, tmp_path / "out")
    (tmp_path / "text.gguf").write_text("hello")
    assert "not a GGUF" in refusal(capsys, tmp_path / "text.gguf", tmp_path / "out")
    whole = write_gguf(tmp_path / "m.gguf", "Q4_0").read_bytes()
    for size in (4, 10, 24, 300, len(whole) // 2, len(whole) - 64):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        refusal(capsys, tmp_path / "cut.gguf", tmp_path / "out")


@pytest.mark.parametrize("count", ["0", "-1", "5"])
def test_partition_counts(tmp_path, capsys, count):
    model = write_gguf(tmp_path / "m.gguf")
    text = refusal(capsys, model, tmp_path / "out", "--num-partitions", count)
    assert "--num-partitions" in text and "1 to 4" in text


def test_bad_flags_end_with_64(capsys):
    for arguments in ([], ["--model", "x"], ["--quantization", "int3"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 64
    assert "split_model.py" in capsys.readouterr().err


def test_a_directory_of_something_else_is_not_replaced(tmp_path, capsys):
    model = write_gguf(tmp_path / "m.gguf")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    assert main(["--quiet", "--model", str(model), "--output", str(tmp_path / "home")]) == 64
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    assert "something other" in capsys.readouterr().err


def test_a_failed_split_leaves_the_old_directory(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--quiet", "--model", str(write_gguf(tmp_path / "m.gguf")),
                 "--output", str(out)]) == 0
    before = (out / "partition_metadata.json").read_bytes()
    bad = write_gguf(tmp_path / "bad.gguf", drop=("blk.3.ffn_down.weight",))
    assert main(["--quiet", "--model", str(bad), "--output", str(out)]) == 64
    assert (out / "partition_metadata.json").read_bytes() == before
    assert main(["--quiet", "--verify", str(out)]) == 0
    assert not list(tmp_path.glob(".*"))
