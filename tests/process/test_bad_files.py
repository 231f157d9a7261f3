"""Damaged model directories, ports in use, options and CPUs that do not fit: one clear line on
stderr, and the exit code of the design: 64 for files and options, 65 for a port."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import models
import pytest
from cluster import ANY_PORT
from damage import (cut_by_one_byte, header, header_length, header_text, refit, router_options,
                    shift_offsets, stage_options, tensor, truncated)

EXIT_PORT = 65


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    """The same shape and cut, other weights."""
    return models.split_tiny(tmp_path_factory.mktemp("other"), 2, seed=1)


@pytest.fixture(scope="module")
def other_cut(tmp_path_factory) -> Path:
    return models.split_tiny(tmp_path_factory.mktemp("cut"), 3)


# ---- partition files ----


DAMAGES = {
    "missing": Path.unlink,
    "empty": truncated(0),
    "cut in the header's length": truncated(5),
    "cut in the header": truncated(300),
    "cut in the data": truncated(6000),
    "cut by one byte": cut_by_one_byte,
    "header longer than the file": header_length(1 << 40),
    "header longer than memory": header_length(2 ** 64 - 1),
    "header of no length": header_length(0),
    "header that ends too early": header_length(64),
    "header that is not JSON": lambda path: path.write_bytes(
        path.read_bytes()[:8] + b"{nonsense" + path.read_bytes()[17:]),
    "offsets beyond the file": tensor(shift_offsets(1 << 40)),
    "offsets that wrap around": tensor(shift_offsets((1 << 63) - 1)),
    "negative offsets": tensor(shift_offsets(-(1 << 20))),
    "no room for a header": truncated(8),
    "unaligned offsets": tensor(shift_offsets(4)),
    "offsets in another tensor": tensor(shift_offsets(64)),
    "swapped offsets": tensor(lambda t: t["data_offsets"].reverse()),
    "another shape": tensor(lambda t: t.update(shape=[65])),
    "a shape that overflows": tensor(lambda t: t.update(shape=[1 << 62, 4])),
    "another type": tensor(lambda t: t.update(dtype="F16")),
    "a tensor left out": header(lambda fields: fields.pop("layers.0.attn_norm")),
    "another format": header(lambda fields: fields["__metadata__"].update(format="other")),
    "another version": header(lambda fields: fields["__metadata__"].update(format_version="2")),
    "another arithmetic": header(lambda fields: fields["__metadata__"].update(numerics_abi="2")),
    "no metadata": header(lambda fields: fields.pop("__metadata__")),
    "a key twice": header_text(lambda text: text.replace(
        b"{", b'{"layers.0.attn_norm":{"dtype":"F32","shape":[64],"data_offsets":[0,256]},', 1)),
    "a field of a tensor twice": header_text(lambda text: text.replace(
        b'"dtype":"F32"', b'"dtype":"F32","dtype":"F32"', 1)),
}
SAID = {  # where it is worth knowing that it was noticed as what it is
    "missing": "No such file", "cut by one byte": "bytes", "another shape": "shape",
    "header longer than the file": "longer than the file", "offsets beyond the file": "beyond",
    "unaligned offsets": "multiple of 64", "a key twice": 'duplicate key "layers.0.attn_norm"',
    "a field of a tensor twice": 'duplicate key "dtype"', "another type": "needs 128",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_partition(model, refusal, name):
    DAMAGES[name](model / "partition_0.safetensors")
    line = refusal("chatloop-stage", *stage_options(model))
    assert "partition_0.safetensors" in line and SAID.get(name, "") in line


def test_tensors_that_overlap(model, refusal):
    """One reaches into the next; all else is as it should be."""
    path = model / "partition_0.safetensors"

    def grow(fields: dict) -> None:
        entry = fields["layers.0.attn_norm"]
        first, end = entry["data_offsets"]
        entry.update(shape=[2 * (end - first) // 4], data_offsets=[first, 2 * end - first])

    header(grow)(path)
    assert "overlaps" in refusal("chatloop-stage", *stage_options(model))


def test_hole_between_tensors(model, refusal):
    tensor(lambda t: t.update(shape=[t["shape"][0] // 2],
                              data_offsets=[t["data_offsets"][0], sum(t["data_offsets"]) // 2]))(
        model / "partition_0.safetensors")
    assert "hole before" in refusal("chatloop-stage", *stage_options(model))


@pytest.mark.parametrize("damage", ["missing", "cut by one byte", "header longer than the file"])
def test_damaged_head(model, refusal, damage):
    DAMAGES[damage](model / "partition_head.safetensors")
    line = refusal("chatloop-sampler", "--model", model, "--name", "s", "--listen", ANY_PORT)
    assert "partition_head.safetensors" in line
    line = refusal("chatloop-stage", *stage_options(model, 1), "--with-sampler")
    assert "partition_head.safetensors" in line


def test_partition_of_another_model(model, other_model, refusal):
    shutil.copy(other_model / "partition_0.safetensors", model)
    line = refusal("chatloop-stage", *stage_options(model))
    assert "partition_0.safetensors" in line and "model" in line


def test_partition_of_another_cut(model, other_cut, refusal):
    shutil.copy(other_cut / "partition_0.safetensors", model)
    assert "partition_0.safetensors" in refusal("chatloop-stage", *stage_options(model))


def test_swapped_partitions(model, refusal):
    shutil.copy(model / "partition_1.safetensors", model / "partition_0.safetensors")
    assert "partition_0.safetensors" in refusal("chatloop-stage", *stage_options(model))


def test_cpud_refuses_the_same_files(model, other_model, refusal):
    shutil.copy(other_model / "partition_1.safetensors", model)
    line = refusal("chatloop-cpud", "--model", model, "--prompt", "a")
    assert "partition_1.safetensors" in line


# ---- the other files ----


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"format": "other"}'])
def test_damaged_metadata(model, refusal, text):
    path = model / "partition_metadata.json"
    path.unlink() if text is None else path.write_text(text)
    for line in (refusal("chatloop-router", *router_options(model)),
                 refusal("chatloop-stage", *stage_options(model))):
        assert "partition_metadata.json" in line


@pytest.mark.parametrize("change", [
    {"hidden_size": 0}, {"hidden_size": -64}, {"hidden_size": 2 ** 40}, {"n_layers": "4"},
    {"n_heads": 3}, {"partitions": []}, {"partitions": 7}, {"stop_ids": [-1]},
    {"context_length": 0}, {"norm_eps": None}, {"format_version": 2}, {"numerics_abi": 2},
], ids=str)
def test_metadata_that_lies(model, refusal, change):
    path = model / "partition_metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "partition_metadata.json" in refusal("chatloop-stage", *stage_options(model))


def test_metadata_with_a_key_twice(model, refusal):
    path = model / "partition_metadata.json"
    path.write_text(path.read_text().replace('"n_layers"', '"n_layers": 4, "n_layers"', 1))
    for line in (refusal("chatloop-router", *router_options(model)),
                 refusal("chatloop-stage", *stage_options(model))):
        assert 'duplicate key "n_layers"' in line


@pytest.mark.parametrize("refitted", [False, True], ids=["", "sha256 fits"])
@pytest.mark.parametrize("name, damage", [
    ("tokenizer.json", Path.unlink), ("tokenizer.json", truncated(100)),
    ("tokenizer.json", truncated(0)), ("tokenizer_config.json", truncated(30)),
    ("tokenizer_config.json", truncated(0)),  # without it there is no chat template, no more
], ids=["missing", "cut", "empty", "cut config", "empty config"])
def test_damaged_tokenizer(model, refusal, name, damage, refitted):
    damage(model / "tokenizer" / name)
    if refitted:
        refit(model)
    assert name in refusal("chatloop-router", *router_options(model))


def test_no_model_directory(tmp_path, refusal):
    assert "nowhere" in refusal("chatloop-stage", *stage_options(tmp_path / "nowhere"))
    assert "nowhere" in refusal("chatloop-router", *router_options(tmp_path / "nowhere"))


# ---- options ----


@pytest.mark.parametrize("partition", [2, 5, 4095])
def test_partition_that_is_none(model, refusal, partition):
    line = refusal("chatloop-stage", *stage_options(model, partition))
    assert "--partition" in line and "0..1" in line


@pytest.mark.parametrize("option", ["--kernels=nonsense", "--layers=3:1", "--layers=0:5",
                                    "--layers=0-2", "--router=nonsense", "--listen=nonsense"])
def test_options_that_mean_nothing(model, refusal, option):
    name = option.split("=")[0]
    drop = {"--layers": "--partition", "--listen": "--listen"}.get(name)
    options = stage_options(model)
    if drop:
        at = options.index(drop)
        del options[at:at + 2]
    value = option.split("=")[1]
    assert value in refusal("chatloop-stage", *options, option)


@pytest.mark.parametrize("option", ["--unknown=1", "--kv-cache-mb=many", "--max-sequences=0"])
def test_options_that_cannot_be_parsed(model, refusal, option):
    refusal("chatloop-stage", *stage_options(model), option)


# ---- the machine ----


@pytest.fixture
def busy_endpoint():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("name", ["ctrl", "front", "result"])
def test_port_in_use_by_another(model, refusal, busy_endpoint, name):
    line = refusal("chatloop-router", *router_options(model, **{name: busy_endpoint}),
                   code=EXIT_PORT)
    assert busy_endpoint.removeprefix("tcp://") in line


def test_port_of_a_worker_in_use(model, refusal, busy_endpoint):
    options = [busy_endpoint if word == ANY_PORT else word for word in stage_options(model)]
    line = refusal("chatloop-stage", *options, code=EXIT_PORT)
    assert busy_endpoint.removeprefix("tcp://") in line


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize("cpu", ["Nehalem", "max,-avx2", "max,-fma", "max,-f16c"])
def test_cpu_without_avx2(model, refusal, cpu):
    under = ["qemu-x86_64", "-cpu", cpu]
    assert "AVX2" in refusal("chatloop-stage", *stage_options(model), under=under)
    assert "AVX2" in refusal("chatloop-router", *router_options(model), under=under)
