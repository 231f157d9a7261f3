"""Rechecks a model directory: every sha256, every header, one model_id and cut_id throughout."""

from __future__ import annotations

import json
from pathlib import Path

from model_splitter.container import TENSOR_ALIGN, DATA_ALIGN, file_sha256, read_header
from model_splitter.errors import SplitError
from model_splitter.report import Reporter

METADATA_FILE = "partition_metadata.json"
CURE = "split the model again"


def verify_directory(folder: Path, reporter: Reporter) -> None:
    """Raises SplitError for the first file that is missing, damaged or of another model."""
    metadata = _read_metadata(folder)
    try:
        entries = [*metadata["partitions"], metadata["head"], *metadata["tokenizer"]]
        tensor_files = {entry["file"] for entry in entries[:len(metadata["partitions"]) + 1]}
        sizes = [(str(entry["file"]), int(entry["bytes"]), str(entry["sha256"]))
                 for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise SplitError(f"{folder / METADATA_FILE}: field missing or damaged ({error}); {CURE}")
    with reporter.task("Verifying", sum(size for _, size, _ in sizes)) as advance:
        for name, size, digest in sizes:
            path = folder / name
            if not path.is_file():
                raise SplitError(f"{path} is missing; {CURE}")
            if path.stat().st_size != size:
                raise SplitError(f"{path} has {path.stat().st_size} bytes instead of {size}; "
                                 f"{CURE}")
            if file_sha256(path, advance) != digest:
                raise SplitError(f"{path} is damaged: its sha256 differs; {CURE}")
            if name in tensor_files:
                _check_header(path, metadata)
    reporter.line(f"{folder}: {len(sizes)} files are intact, model {metadata['model_id']}")


def _read_metadata(folder: Path) -> dict:
    path = folder / METADATA_FILE
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SplitError(f"{path}: {error.strerror}; give a directory that split_model.py wrote")
    except ValueError:
        raise SplitError(f"{path} is not JSON; {CURE}")
    if not isinstance(metadata, dict) or metadata.get("format") != "chatloop-partition":
        raise SplitError(f"{path} is not of a ChatLoop model; "
                         "give a directory that split_model.py wrote")
    return metadata


def _check_header(path: Path, metadata: dict) -> None:
    try:
        header, data_start = read_header(path)
        strings = header["__metadata__"]
        firsts = [entry["data_offsets"][0] for name, entry in header.items()
                  if name != "__metadata__" and not name.startswith("pad.")]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SplitError(f"{path}: its header is damaged ({error}); {CURE}")
    if data_start % DATA_ALIGN or any(first % TENSOR_ALIGN for first in firsts):
        raise SplitError(f"{path}: a tensor is not aligned; {CURE}")
    for key in ("model_id", "cut_id"):
        if strings.get(key) != metadata[key]:
            raise SplitError(f"{path} belongs to another {key.removesuffix('_id')}; {CURE}")
