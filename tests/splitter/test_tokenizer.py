"""tokenizer/: ids against llama.cpp's, special tokens, stop ids."""

import json
from pathlib import Path

import pytest
from tiny_gguf import TOKENS, write_gguf
from tokenizers import Tokenizer

from model_splitter.gguf_source import GgufSource
from model_splitter.split_model import main
from model_splitter.tokenizer_files import read_text_model

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "smollm2_reference.json"


@pytest.fixture(scope="module")
def real_split(real_gguf, tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "out"
    assert main(["--quiet", "--model", real_gguf, "--output", str(out)]) == 0
    return out


def test_smollm2_ids_equal_llama_cpps(real_split):
    tokenizer = Tokenizer.from_file(str(real_split / "tokenizer" / "tokenizer.json"))
    reference = json.loads(REFERENCE.read_text())
    tokenizer.encode_special_tokens = True
    assert len(reference["tokenize"]) >= 30
    for row in reference["tokenize"]:
        assert tokenizer.encode(row["text"], add_special_tokens=False).ids == row["ids"]
        assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row["text"]
    tokenizer.encode_special_tokens = False
    for row in reference["generations"]:
        found = tokenizer.encode(row["prompt"], add_special_tokens=False).ids
        assert found == row["prompt_ids"]


def test_smollm2_metadata(real_split):
    metadata = json.loads((real_split / "partition_metadata.json").read_text())
    assert metadata["model_name"] == "SmolLM2-135M-Instruct"
    assert (metadata["stop_ids"], metadata["add_bos"]) == ([0, 2], False)
    config = json.loads((real_split / "tokenizer" / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in config["chat_template"]
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert config["model_max_length"] == 8192


def test_special_tokens_are_plain_text_where_asked(tmp_path):
    text = read_text_model(GgufSource(write_gguf(tmp_path / "m.gguf")))
    assert text.tokenizer.encode("ab<|im_end|> c").ids == [6, 1, 7]
    text.tokenizer.encode_special_tokens = True
    assert 1 not in text.tokenizer.encode("ab<|im_end|> c").ids
    assert text.tokenizer.get_vocab_size() == len(TOKENS)


def test_user_defined_tokens_are_added_but_not_special(tmp_path):
    types = [3, 3] + [1] * (len(TOKENS) - 3) + [4]
    model = write_gguf(tmp_path / "m.gguf", keys={"tokenizer.ggml.token_type": types})
    tokenizer = read_text_model(GgufSource(model)).tokenizer
    added = tokenizer.get_added_tokens_decoder()
    assert {i: token.special for i, token in added.items()} == {0: True, 1: True, 9: False}


@pytest.mark.parametrize("pre, pieces", [
    ("gpt-2", ["1234", "Ġab", "'s"]), ("smollm", ["1", "2", "3", "4", "Ġab", "'s"]),
    ("llama-bpe", ["123", "4", "Ġab", "'s"]), ("qwen2", ["1", "2", "3", "4", "Ġab", "'s"]),
])
def test_pre_tokenizers_cut_as_their_family_does(tmp_path, pre, pieces):
    model = write_gguf(tmp_path / "m.gguf", keys={"tokenizer.ggml.pre": pre})
    text = read_text_model(GgufSource(model))
    found = [piece for piece, _ in text.tokenizer.pre_tokenizer.pre_tokenize_str("1234 ab's")]
    assert found == pieces
    assert text.add_bos == (pre == "llama-bpe")


def test_a_template_that_does_not_parse_is_a_warning(tmp_path):
    keys = {"tokenizer.chat_template": "{% for %}"}
    text = read_text_model(GgufSource(write_gguf(tmp_path / "m.gguf", keys=keys)))
    assert "does not parse" in text.warnings[0]
    keys = {"tokenizer.chat_template": None}
    text = read_text_model(GgufSource(write_gguf(tmp_path / "n.gguf", keys=keys)))
    assert "no chat template" in text.warnings[0] and "chat_template" not in text.config
