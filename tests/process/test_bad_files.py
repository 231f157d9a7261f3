"""Damaged model directories, ports in use, options and CPUs that do not fit: one clear line on
stderr, and the exit code of the design: 64 for files and options, 65 for a port."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from cluster import ANY_PORT

EXIT_CONFIG, EXIT_PORT = 64, 65
NOBODY = "tcp://127.0.0.1:1"  # no router is needed to find these mistakes
TIMEOUT_S = 20.0


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    """The same shape and cut, other weights."""
    return models.split_tiny(tmp_path_factory.mktemp("other"), 2, seed=1)


@pytest.fixture(scope="module")
def other_cut(tmp_path_factory) -> Path:
    return models.split_tiny(tmp_path_factory.mktemp("cut"), 3)


@pytest.fixture
def refusal(build):
    """Runs an actor that must refuse to start; returns the one line that it says."""

    def run(actor: str, *options: object, code: int = EXIT_CONFIG, under: list[str] = []) -> str:
        command = [*under, build / "actors" / actor, *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        assert done.returncode == code, (done.returncode, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and done.stdout == "", done
        assert lines[0].startswith(f"{actor}: ") and len(lines[0]) < 400
        return lines[0]

    return run


def stage_options(model: Path, partition: int = 0) -> list[object]:
    return ["--model", model, "--partition", partition, "--name", "s", "--listen", ANY_PORT,
            "--router", NOBODY]


def router_options(model: Path, **endpoints: str) -> list[object]:
    sockets = {"ctrl": ANY_PORT, "front": ANY_PORT, "result": ANY_PORT, **endpoints}
    return ["--model", model, *(word for name, endpoint in sockets.items()
                                for word in (f"--{name}", endpoint))]


# ---- partition files ----


def truncated(size: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:size])

    return damage


def cut_by_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def header_length(value: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(struct.pack("<Q", value) + path.read_bytes()[8:])

    return damage


def header(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Damage that is valid JSON in a header of the same length."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        fields = json.loads(data[8:8 + size])
        change(fields)
        text = json.dumps(fields, separators=(",", ":")).encode()
        assert len(text) <= size
        path.write_bytes(data[:8] + text.ljust(size) + data[8 + size:])

    return damage


def tensor(change: Callable[[dict], None], name: str = "layers.0.attn_norm"):
    return header(lambda fields: change(fields[name]))


def shift_offsets(by: int) -> Callable[[dict], None]:
    def change(entry: dict) -> None:
        entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]

    return change


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
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_partition(model, refusal, damage):
    damage(model / "partition_0.safetensors")
    assert "partition_0.safetensors" in refusal("chatloop-stage", *stage_options(model))


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


@pytest.mark.parametrize("name, damage", [
    ("tokenizer.json", Path.unlink), ("tokenizer.json", truncated(100)),
    ("tokenizer.json", truncated(0)), ("tokenizer_config.json", truncated(30)),
    ("tokenizer_config.json", truncated(0)),  # without it there is no chat template, no more
], ids=["missing", "cut", "empty", "cut config", "empty config"])
def test_damaged_tokenizer(model, refusal, name, damage):
    damage(model / "tokenizer" / name)
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
