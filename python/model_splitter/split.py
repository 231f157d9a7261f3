"""One split, from an opened GGUF to a finished model directory that replaces the old one."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_splitter.container import file_sha256
from model_splitter.convert import Converter, tensor_steps
from model_splitter.errors import SplitError
from model_splitter.gguf_source import LAYER_MATRICES, GgufSource
from model_splitter.identity import NUMERICS_ABI, cut_id
from model_splitter.plan import Plan, make_plan
from model_splitter.report import Reporter
from model_splitter.spec import ModelSpec
from model_splitter.tokenizer_files import TextModel, read_text_model, write_text_model
from model_splitter.verify import METADATA_FILE

FORMAT = {"format": "chatloop-partition", "format_version": 1}
TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")


@dataclass(frozen=True)
class SplitOptions:
    model: Path
    output: Path
    partitions: int
    quantization: str = "none"  # none, int8, int4
    sampler: str = "last"       # last, own


def split(options: SplitOptions, reporter: Reporter) -> None:
    started = time.monotonic()
    source = GgufSource(options.model)
    spec = source.spec
    text = read_text_model(source)
    plan = make_plan(_layer_costs(source), spec.vocab_size * spec.hidden_size,
                     options.partitions, options.sampler)
    output = Path(os.path.abspath(options.output))
    _check_replaceable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = output.with_name(f".{output.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # left by an interrupted run
    staging.mkdir()
    try:
        converter, metadata = _write(options, source, text, plan, staging, reporter)
        _replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _summarize(options, plan, text, converter, metadata, reporter)
    reporter.line(f"{output}: model {metadata['model_id']}, "
                  f"{time.monotonic() - started:.1f} s")


def _layer_costs(source: GgufSource) -> list[int]:
    """Multiplications per token; attention's own depend on the context and are left out."""
    per_layer = 0
    for name in LAYER_MATRICES:
        rows, cols = source.layer_shape(name)
        per_layer += rows * cols
    return [per_layer] * source.spec.n_layers


def _write(options: SplitOptions, source: GgufSource, text: TextModel, plan: Plan, folder: Path,
           reporter: Reporter) -> tuple[Converter, dict[str, Any]]:
    with reporter.task("Converting", tensor_steps(source.spec)) as advance:
        converter = Converter(source, options.quantization, lambda: advance(1))
        writers = [converter.write_partition(folder / f"partition_{i}.safetensors", first, end)
                   for i, (first, end) in enumerate(plan.ranges)]
        head = converter.write_head(folder / "partition_head.safetensors")
    model_id = converter.identity.model_id()
    strings = {"format": FORMAT["format"], "format_version": str(FORMAT["format_version"]),
               "model_id": model_id, "cut_id": cut_id(model_id, plan.ranges),
               "numerics_abi": str(NUMERICS_ABI)}
    for writer, (first, end) in zip(writers, plan.ranges):
        writer.finish({**strings, "layer_first": str(first), "layer_end": str(end)})
    head.finish(strings)
    write_text_model(text, folder / "tokenizer")
    metadata = _metadata(options, source.spec, text, plan, strings)
    _add_digests(metadata, options.model, folder, reporter)
    with open(folder / METADATA_FILE, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return converter, metadata


def _metadata(options: SplitOptions, spec: ModelSpec, text: TextModel, plan: Plan,
              strings: dict[str, str]) -> dict[str, Any]:
    """partition_metadata.json without sizes and digests."""
    return {
        **FORMAT, "numerics_abi": NUMERICS_ABI,
        "model_id": strings["model_id"], "cut_id": strings["cut_id"],
        "model_name": model_name(options.model),
        "architecture": spec.architecture, "quantization": options.quantization,
        **{name: getattr(spec, name) for name in (*ModelSpec.INTEGERS, *ModelSpec.FLOATS)},
        "bos_id": text.bos_id, "eos_id": text.eos_id, "add_bos": text.add_bos,
        "stop_ids": text.stop_ids,
        "source": {"file": options.model.name},
        "partitions": [{"file": f"partition_{i}.safetensors", "layer_first": first,
                        "layer_end": end, "has_embedding": i == 0}
                       for i, (first, end) in enumerate(plan.ranges)],
        "head": {"file": "partition_head.safetensors"},
        "tokenizer": [{"file": name} for name in TOKENIZER_FILES],
    }


def _add_digests(metadata: dict[str, Any], model: Path, folder: Path, reporter: Reporter) -> None:
    entries = [*metadata["partitions"], metadata["head"], *metadata["tokenizer"]]
    for entry in entries:
        entry["bytes"] = (folder / entry["file"]).stat().st_size
    total = model.stat().st_size + sum(entry["bytes"] for entry in entries)
    with reporter.task("Hashing", total) as advance:
        metadata["source"]["sha256"] = file_sha256(model, advance)
        for entry in entries:
            entry["sha256"] = file_sha256(folder / entry["file"], advance)


def model_name(path: Path) -> str:
    """The file's name without `.gguf` and a quantization suffix (.Q4_1, -Q8_0, .IQ4_XS, -F16)."""
    stem = re.sub(r"\.gguf$", "", path.name, flags=re.IGNORECASE)
    suffix = re.search(r"[.-](i?q[0-9][0-9a-z_]*|b?f16|f32)$", stem, flags=re.IGNORECASE)
    return stem[:suffix.start()] if suffix and suffix.start() > 0 else stem


def _check_replaceable(output: Path) -> None:
    if output.is_dir() and any(output.iterdir()) and not (output / METADATA_FILE).is_file():
        raise SplitError(f"{output} holds something other than a split model; "
                         "choose another --output or empty it")
    if output.exists() and not output.is_dir():
        raise SplitError(f"{output} is not a directory; choose another --output")


def _replace(staging: Path, output: Path) -> None:
    """Two renames: a reader sees the old directory, for an instant none, then the new one."""
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    try:
        staging.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _summarize(options: SplitOptions, plan: Plan, text: TextModel, converter: Converter,
               metadata: dict[str, Any], reporter: Reporter) -> None:
    reporter.plan(plan, [entry["bytes"] for entry in metadata["partitions"]] +
                  [metadata["head"]["bytes"]])
    error = converter.error
    if error.squared_weight:
        reporter.line(f"--quantization {options.quantization}: "
                      f"rms error {100 * error.relative_rms:.3f} % of the rms weight")
    if error.requantized:
        reporter.line(f"notice: requantizes an already quantized source "
                      f"({', '.join(sorted(error.requantized))}); a float GGUF would be better")
    if error.kept:
        reporter.line(f"kept without loss, already quantized: {', '.join(sorted(error.kept))}")
    if error.float_kept:
        reporter.line(f"{len(error.float_kept)} matrices stay float: "
                      "their width is no multiple of 32")
    for warning in text.warnings:
        reporter.line(f"warning: {warning}")
