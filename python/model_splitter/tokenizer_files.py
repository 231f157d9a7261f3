"""tokenizer/: Hugging Face's tokenizer.json and tokenizer_config.json from a GGUF's vocabulary."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from model_splitter.errors import SplitError
from model_splitter.gguf_source import GgufSource

CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

# End-of-turn entries by their text: many files name only one of several in their keys.
STOP_TEXTS = {
    "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>",
    "<|end_of_turn|>", "<end_of_turn>", "<|return|>", "<|call|>", "<EOT>", "_<EOT>", "</s>",
    "<end_of_utterance>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>",
}


def _byte_level(use_regex: bool):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _split_by(pattern: str):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    _byte_level(use_regex=False)])


def _word_pattern(digits: str) -> str:
    """The pattern of the cl100k family; it differs only in how digits are grouped."""
    return (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class PreTokenizer:
    """What a value of tokenizer.ggml.pre stands for."""

    splitter: Callable[[], Any]
    normalizer: Optional[Callable[[], Any]] = None
    ignore_merges: bool = False
    add_bos: bool = False  # where the file does not say


PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer(lambda: _byte_level(use_regex=True)),
    "smollm": PreTokenizer(lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _byte_level(use_regex=True)])),
    "llama-bpe": PreTokenizer(lambda: _split_by(_word_pattern(r"\p{N}{1,3}")),
                              ignore_merges=True, add_bos=True),
    "qwen2": PreTokenizer(lambda: _split_by(_word_pattern(r"\p{N}")), normalizers.NFC),
}


@dataclass(frozen=True)
class TextModel:
    """The tokenizer and what the metadata says of it; ids are -1 where there is none."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    bos_id: int
    eos_id: int
    add_bos: bool
    stop_ids: list[int]
    warnings: list[str]


def read_text_model(source: GgufSource) -> TextModel:
    kind = source.key("tokenizer.ggml.model")
    if kind != "gpt2":
        raise SplitError(f"{source.path}: tokenizer.ggml.model {kind} is not supported; "
                         "use a model with a byte-level BPE tokenizer (gpt2)")
    name = source.key("tokenizer.ggml.pre")
    if name not in PRE_TOKENIZERS:
        raise SplitError(f"{source.path}: tokenizer.ggml.pre {name} is not supported; "
                         f"known are {', '.join(sorted(PRE_TOKENIZERS))}")
    if source.key("tokenizer.ggml.add_eos_token", False):
        raise SplitError(f"{source.path}: tokenizer.ggml.add_eos_token is not supported; "
                         "use a model that generates text")
    pre = PRE_TOKENIZERS[name]
    tokens, types = _vocabulary(source)
    tokenizer = _build(source, pre, tokens, types)
    bos_id, eos_id = (_token_id(source, which, len(tokens)) for which in ("bos", "eos"))
    add_bos = bool(source.key("tokenizer.ggml.add_bos_token", pre.add_bos)) and bos_id >= 0
    config, warnings = _config(source, tokens, types, add_bos)
    return TextModel(tokenizer, config, bos_id, eos_id, add_bos,
                     _stop_ids(source, tokens, types), warnings)


def write_text_model(text: TextModel, folder: Path) -> None:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text.tokenizer.to_str(pretty=True), encoding="utf-8")
    config = json.dumps(text.config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")


def _vocabulary(source: GgufSource) -> tuple[list[str], list[int]]:
    tokens = source.key("tokenizer.ggml.tokens")
    types = source.key("tokenizer.ggml.token_type")
    if not tokens or not types or not source.key("tokenizer.ggml.merges"):
        missing = next(key for key in ("tokens", "token_type", "merges")
                       if not source.key(f"tokenizer.ggml.{key}"))
        raise SplitError(f"{source.path}: tokenizer.ggml.{missing} is missing or empty; "
                         "convert the model again with its tokenizer")
    if not len(tokens) == len(types) == source.spec.vocab_size:
        raise SplitError(f"{source.path}: {len(tokens)} tokens and {len(types)} token types for "
                         f"{source.spec.vocab_size} embedding rows; convert the model again")
    if len(set(tokens)) != len(tokens):
        raise SplitError(f"{source.path}: tokenizer.ggml.tokens holds a token twice; "
                         "convert the model again")
    return tokens, types


def _build(source: GgufSource, pre: PreTokenizer, tokens: list[str],
           types: list[int]) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in source.key("tokenizer.ggml.merges")]
    if any(len(merge) != 2 for merge in merges):
        raise SplitError(f"{source.path}: tokenizer.ggml.merges holds an entry that is no pair; "
                         "convert the model again")
    # Added tokens at the end get their ids from their order, as in Hugging Face's own files.
    plain_end = len(tokens)
    while plain_end and types[plain_end - 1] in (CONTROL, USER_DEFINED):
        plain_end -= 1
    vocabulary = {token: i for i, token in enumerate(tokens[:plain_end])}
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre.ignore_merges))
    except Exception as error:  # the library's only exception type
        raise SplitError(f"{source.path}: tokenizer.ggml.merges do not fit the tokens ({error}); "
                         "convert the model again") from None
    if pre.normalizer is not None:
        tokenizer.normalizer = pre.normalizer()
    tokenizer.pre_tokenizer = pre.splitter()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)
                          for token, kind in zip(tokens, types)
                          if kind in (CONTROL, USER_DEFINED)])
    for i, token in enumerate(tokens):
        if tokenizer.id_to_token(i) != token:
            raise SplitError(f"{source.path}: token {i} does not keep its id; "
                             "convert the model again")
    return tokenizer


def _token_id(source: GgufSource, which: str, count: int) -> int:
    value = source.key(f"tokenizer.ggml.{which}_token_id", -1)
    if not isinstance(value, int) or not -1 <= value < count:
        raise SplitError(f"{source.path}: tokenizer.ggml.{which}_token_id = {value} is not an id "
                         f"of the {count} tokens; convert the model again")
    return value


def _stop_ids(source: GgufSource, tokens: list[str], types: list[int]) -> list[int]:
    ids = {_token_id(source, which, len(tokens)) for which in ("eos", "eot", "eom")} - {-1}
    ids |= {i for i, token in enumerate(tokens)
            if token in STOP_TEXTS and types[i] in (CONTROL, USER_DEFINED)}
    return sorted(ids)


def _config(source: GgufSource, tokens: list[str], types: list[int],
            add_bos: bool) -> tuple[dict[str, Any], list[str]]:
    config: dict[str, Any] = {
        "add_bos_token": add_bos, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": token, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": types[i] == CONTROL}
            for i, token in enumerate(tokens) if types[i] in (CONTROL, USER_DEFINED)},
    }
    for which, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = _token_id(source, key, len(tokens))
        if token_id >= 0:
            config[f"{which}_token"] = tokens[token_id]
    warnings = []
    template = source.key("tokenizer.chat_template")
    if template is None:
        warnings.append("the file has no chat template: chat requests will be refused")
    else:
        config["chat_template"] = template
        warnings += _template_warnings(template)
    config.update(clean_up_tokenization_spaces=False,
                  model_max_length=source.spec.context_length,
                  tokenizer_class="PreTrainedTokenizerFast")
    return config, warnings


def _template_warnings(template: str) -> list[str]:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=["jinja2.ext.loopcontrols"])
    # `generation` marks the assistant's text for training; it renders as its body.
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        environment.parse(plain)
    except TemplateSyntaxError as error:
        return [f"the chat template does not parse ({error}): chat requests will be refused"]
    return []
