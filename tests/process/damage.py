"""Ways to damage a model directory, and the options of actors that shall notice it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

from cluster import ANY_PORT

NOBODY = "tcp://127.0.0.1:1"  # no router is needed to find a mistake in a file


def stage_options(model: Path, partition: int = 0) -> list[object]:
    return ["--model", model, "--partition", partition, "--name", "s", "--listen", ANY_PORT,
            "--router", NOBODY]


def router_options(model: Path, **endpoints: str) -> list[object]:
    sockets = {"ctrl": ANY_PORT, "front": ANY_PORT, "result": ANY_PORT, **endpoints}
    return ["--model", model, *(word for name, endpoint in sockets.items()
                                for word in (f"--{name}", endpoint))]


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


def header_text(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Damage in a header of the same length."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        text = change(data[8:8 + size].rstrip())
        assert text != data[8:8 + size].rstrip() and len(text) <= size
        path.write_bytes(data[:8] + text.ljust(size) + data[8 + size:])

    return damage


def header(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """The same, of valid JSON."""

    def change_text(text: bytes) -> bytes:
        fields = json.loads(text)
        change(fields)
        return json.dumps(fields, separators=(",", ":")).encode()

    return header_text(change_text)


def tensor(change: Callable[[dict], object], name: str = "layers.0.attn_norm"):
    return header(lambda fields: change(fields[name]))


def shift_offsets(by: int) -> Callable[[dict], None]:
    def change(entry: dict) -> None:
        entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]

    return change


def change_metadata(model: Path, change: Callable[[dict], object]) -> None:
    path = model / "partition_metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def refit(model: Path) -> None:
    """Sizes and sha256 in the metadata become those of the files, as if the splitter had written
    them so. A file that is missing keeps its entry."""

    def change(metadata: dict) -> None:
        for entry in [*metadata["partitions"], metadata["head"], *metadata["tokenizer"]]:
            path = model / entry["file"]
            if path.is_file() and path.stat().st_size > 0:  # no entry says 0 bytes
                entry["bytes"] = path.stat().st_size
                entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()

    change_metadata(model, change)


def tensor_place(path: Path, name: str) -> tuple[str, int, int]:
    """(type, first byte, end) of a tensor in its file."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(size))[name]
    first, end = entry["data_offsets"]
    return entry["dtype"], 8 + size + first, 8 + size + end


def write_at(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
