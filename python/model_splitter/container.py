"""Partition files: safetensors with tensors at multiples of 64 and data at a multiple of 4096.

Written by hand because the safetensors library chooses order and alignment itself. A file is laid
out from the sizes alone, its tensors are then streamed in order, and the header goes in last: it
holds model_id, which is known only when every tensor has been seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

TENSOR_ALIGN = 64
DATA_ALIGN = 4096
HASH_CHUNK_BYTES = 1 << 22


def file_sha256(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


class PartitionWriter:
    """Writes one partition file. Call add() per tensor, then finish() once."""

    def __init__(self, path: Path, tensor_count_max: int):
        """tensor_count_max bounds the header, whose room is reserved before the tensors come."""
        self.path = path
        # An entry takes under 256 bytes; each tensor may be followed by one entry of padding.
        self._data_start = _round_up(4096 + 512 * tensor_count_max, DATA_ALIGN)
        self._entries: dict[str, dict] = {}
        self._offset = 0
        self._pads = 0
        self._stream = open(path, "wb")
        self._stream.seek(self._data_start)

    def add(self, name: str, dtype: str, array: np.ndarray) -> None:
        assert array.flags.c_contiguous and name not in self._entries, name
        self._pad_to(TENSOR_ALIGN)
        self._write(name, dtype, list(array.shape), array)

    def finish(self, metadata: dict[str, str]) -> None:
        self._pad_to(TENSOR_ALIGN)
        header = json.dumps({"__metadata__": metadata, **self._entries},
                            separators=(",", ":")).encode()
        room = self._data_start - 8
        assert len(header) <= room, (len(header), room)
        self._stream.seek(0)
        self._stream.write(room.to_bytes(8, "little") + header.ljust(room))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def _pad_to(self, align: int) -> None:
        missing = -self._offset % align
        if missing:
            self._write(f"pad.{self._pads}", "U8", [missing], np.zeros(missing, np.uint8))
            self._pads += 1

    def _write(self, name: str, dtype: str, shape: list[int], array: np.ndarray) -> None:
        end = self._offset + array.nbytes
        self._entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [self._offset, end]}
        self._stream.write(array.data.cast("B"))
        self._offset = end


def _round_up(value: int, align: int) -> int:
    return -(-value // align) * align


def read_header(path: Path) -> tuple[dict, int]:
    """(header, first byte of the data) of a safetensors file; ValueError if it is none."""
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= path.stat().st_size - 8:
            raise ValueError("the header does not fit the file")
        return json.loads(stream.read(size)), 8 + size


def read_tensors(path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, safetensors type, array) for each tensor of a file, padding left out."""
    header, start = read_header(path)
    data = np.memmap(path, np.uint8, "r")
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1"}
    for name, entry in header.items():
        if name == "__metadata__" or name.startswith("pad."):
            continue
        first, end = entry["data_offsets"]
        raw = data[start + first:start + end]
        yield name, entry["dtype"], raw.view(kinds[entry["dtype"]]).reshape(entry["shape"])
