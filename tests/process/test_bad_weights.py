"""Model files whose headers are right and whose bytes are not, and files beyond the memory. What
only loading can notice ends a worker just as well: one line, exit code 64."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import models
import pytest
from answers import ask_cpud
from cluster import ANY_PORT, Cluster
from damage import (NOBODY, change_metadata, header, refit, router_options, stage_options,
                    tensor_place, write_at)

QUIET = ["--log-level", "warn"]  # leaves the one line
REQUEST = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 20, "logprobs": 1,
           "temperature": 0.9, "seed": 11}
TIB = 1 << 40


def sampler_options(model: Path) -> list[object]:
    return ["--model", model, "--name", "s", "--listen", ANY_PORT, "--router", NOBODY]


# ---- values that are no numbers ----

NAN = {"F32": struct.pack("<f", float("nan")), "F16": struct.pack("<e", float("nan")),
       "BF16": b"\xc0\x7f"}
INFINITY = {"F32": struct.pack("<f", float("-inf")), "F16": struct.pack("<e", float("inf")),
            "BF16": b"\x80\x7f"}


def spoil(path: Path, tensor: str, value: dict[str, bytes], refitted: bool = False) -> None:
    """The last element becomes `value`."""
    dtype, _, end = tensor_place(path, tensor)
    write_at(path, end - len(value[dtype]), value[dtype])
    if refitted:
        refit(path.parent)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """kind of the GGUF's matrices -> model directory"""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = models.split_tiny(tmp_path_factory.mktemp(kind), 2, kind=kind)
        return made[kind]

    return get


@pytest.mark.parametrize("refitted", [False, True], ids=["damaged", "split so"])
@pytest.mark.parametrize("value", [NAN, INFINITY], ids=["nan", "inf"])
@pytest.mark.parametrize("kind, tensor", [
    ("Q4_1", "layers.0.wq.scales"), ("Q4_0", "layers.1.w2.scales"), ("Q8_0", "layers.0.w1.scales"),
    ("Q4_1", "embed.scales"), ("F32", "embed.weight"), ("BF16", "embed.weight"),
    ("F32", "layers.1.wo.weight"), ("F16", "layers.1.wk.weight"), ("BF16", "layers.0.w3.weight"),
    ("Q4_1", "layers.0.attn_norm"), ("Q4_1", "layers.1.ffn_norm"), ("Q4_1", "rope.cos"),
    ("Q4_1", "rope.sin"),
])
def test_value_that_is_not_finite(model_of, tmp_path, refusal, kind, tensor, value, refitted):
    model = shutil.copytree(model_of(kind), tmp_path / "model")
    spoil(model / "partition_0.safetensors", tensor, value, refitted)
    line = refusal("chatloop-stage", *stage_options(model), *QUIET)
    assert "partition_0.safetensors" in line and f'"{tensor}"' in line and "not finite" in line


@pytest.mark.parametrize("value", [NAN, INFINITY], ids=["nan", "inf"])
@pytest.mark.parametrize("kind, tensor", [
    ("Q4_1", "head.scales"), ("F32", "head.weight"), ("BF16", "head.weight"), ("Q4_1", "norm")])
def test_head_value_that_is_not_finite(model_of, tmp_path, refusal, kind, tensor, value):
    model = shutil.copytree(model_of(kind), tmp_path / "model")
    spoil(model / "partition_head.safetensors", tensor, value, refitted=True)
    for line in (refusal("chatloop-sampler", *sampler_options(model), *QUIET),
                 refusal("chatloop-stage", *stage_options(model, 1), "--with-sampler", *QUIET),
                 refusal("chatloop-cpud", "--model", model, "--prompt", "a")):
        assert "partition_head.safetensors" in line and f'"{tensor}"' in line


# ---- sha256 and stamps ----


def flip(path: Path, tensor: str) -> None:
    """A weight becomes another one."""
    at = tensor_place(path, tensor)[1]
    write_at(path, at, bytes([path.read_bytes()[at] ^ 0x11]))


def test_wrong_sha256(model, refusal):
    flip(model / "partition_0.safetensors", "layers.1.w2.q4")
    for line in (refusal("chatloop-stage", *stage_options(model), *QUIET),
                 refusal("chatloop-stage", *stage_options(model), *QUIET),  # no stamp was left
                 refusal("chatloop-cpud", "--model", model, "--prompt", "a")):
        assert "partition_0.safetensors" in line and "sha256" in line


def test_wrong_sha256_of_the_head(model, refusal):
    flip(model / "partition_head.safetensors", "head.q4")
    for line in (refusal("chatloop-sampler", *sampler_options(model), *QUIET),
                 refusal("chatloop-stage", *stage_options(model, 1), "--with-sampler", *QUIET)):
        assert "partition_head.safetensors" in line and "sha256" in line


def checks(cluster: Cluster) -> dict[str, list[str]]:
    """What the workers said about the files that they use."""
    return {process.name: [text for text in process.messages() if "sha256" in text]
            for process in cluster.processes.values() if process.name != "router"}


def test_first_start_hashes_and_later_ones_do_not(build, model, refusal, tmp_path):
    for file in model.glob("*.verified"):
        file.unlink()  # of tests that used the same model before
    with Cluster(build, model, tmp_path / "first", own_sampler=True) as cluster:
        first = checks(cluster)
        cluster.stop()
    with Cluster(build, model, tmp_path / "second", own_sampler=True) as cluster:
        second = checks(cluster)
        cluster.stop()
    assert {name: len(said) for name, said in first.items()} == \
        {"stage-0": 1, "stage-1": 1, "sampler": 1}
    assert all(said[0].endswith(": sha256 checked") for said in first.values())
    assert all("was checked before" in said[0] for said in second.values())
    # A stamp is of one file: after the least change it is worth nothing.
    flip(model / "partition_0.safetensors", "layers.0.wq.q4")
    assert "sha256" in refusal("chatloop-stage", *stage_options(model), *QUIET)


def test_stamps_change_no_bit_of_an_answer(build, model, tmp_path):
    first, second = (ask_cpud(build, model, tmp_path, [REQUEST], "--stages", "2")
                     for _ in range(2))
    assert first == second


# ---- the tokenizer ----


def test_tokenizer_of_another_split(model, refusal):
    path = model / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"ab"', '"ba"', 1))
    for line in (refusal("chatloop-router", *router_options(model)),
                 refusal("chatloop-cpud", "--model", model, "--prompt", "a")):
        assert "tokenizer/tokenizer.json" in line and "sha256" in line


@pytest.fixture
def larger_vocabulary(model) -> Path:
    """The tokenizer knows one more id than the model."""
    path = model / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["zz"] = len(vocabulary)
    path.write_text(json.dumps(tokenizer))
    return model


@pytest.mark.parametrize("listed", [True, False])
def test_tokenizer_with_ids_that_the_model_lacks(larger_vocabulary, refusal, listed):
    model = larger_vocabulary
    refit(model) if listed else change_metadata(model, lambda m: m.pop("tokenizer"))
    for line in (refusal("chatloop-router", *router_options(model)),
                 refusal("chatloop-cpud", "--model", model, "--prompt", "a")):
        assert "tokenizer.json" in line and "11 ids" in line and "10;" in line


def test_tokenizer_with_fewer_ids_than_a_padded_vocabulary(build, model, tmp_path):
    path = model / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    del tokenizer["model"]["vocab"]["2"]  # the last id, of no merge
    path.write_text(json.dumps(tokenizer))
    refit(model)
    assert len(ask_cpud(build, model, tmp_path, [REQUEST])[0].token_ids) == 20


# ---- more than the memory holds ----


def grow(path: Path, size: int) -> None:
    """A sparse file of that size: a pad after the last tensor."""
    with path.open("rb") as file:
        data_first = 8 + struct.unpack("<Q", file.read(8))[0]
    end = path.stat().st_size - data_first
    pad = {"dtype": "U8", "shape": [size - data_first - end],
           "data_offsets": [end, size - data_first]}
    header(lambda fields: fields.update({"pad.999": pad}))(path)
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.fixture
def huge(model) -> Path:
    """A model whose first partition and head are of a tebibyte."""
    for name in ("partition_0.safetensors", "partition_head.safetensors"):
        grow(model / name, TIB)

    def say_so(metadata: dict) -> None:
        metadata["partitions"][0]["bytes"] = metadata["head"]["bytes"] = TIB

    change_metadata(model, say_so)
    return model


def test_partition_larger_than_memory(huge, refusal):
    line = refusal("chatloop-stage", *stage_options(huge))
    assert "partition_0.safetensors" in line and "--allow-paging" in line
    needed, available = (int(word) for word in line.split() if word.isdigit()
                         and f"{word} MiB are" in line)
    assert needed >= TIB >> 20 > available > 0
    line = refusal("chatloop-sampler", *sampler_options(huge))
    assert "partition_head.safetensors" in line and "--allow-paging" in line
    assert "--allow-paging" in refusal("chatloop-cpud", "--model", huge, "--prompt", "a")


def test_allow_paging_loads_it_all_the_same(build, huge, tmp_path):
    """It listens, and while it hashes a tebibyte its loop still hears of signals."""
    command = [build / "actors" / "chatloop-stage", *stage_options(huge), "--allow-paging"]
    worker = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    try:
        assert "listens at" in worker.stderr.readline()
        assert worker.poll() is None
        worker.terminate()
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize("paging", [[], ["--allow-paging"]], ids=["", "paging"])
def test_kv_cache_larger_than_memory(model, refusal, paging):
    size = ["--kv-cache-mb", 1 << 23]
    for line in (refusal("chatloop-stage", *stage_options(model), *size, *paging),
                 refusal("chatloop-cpud", "--model", model, "--prompt", "a", *size, *paging)):
        assert "--kv-cache-mb" in line and f"{1 << 23} MiB" in line
