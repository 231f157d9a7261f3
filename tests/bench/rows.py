"""The rows and the engines of the benchmark.

A row is what is measured ("prefill 512"), an engine is who ("cpud", "llama -t 2"). A case is one
engine in one setting, and gives values of some rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from our_engine import Engine, request
from peer_tools import Peer

PREFILL, DECODE, DEEP = 512, 128, 1024
BATCHES, BATCH_PROMPT, BATCH_TOKENS = (1, 4, 16, 32), 128, 64
BUS_SEQUENCES = 16
IDLE_S = 5.0
MEMORY_KV_MB, MEMORY_SEQUENCES = 32, 32  # more sequences than the pool holds: all of it is touched
SWITCH_TOKENS = (32, 160)  # the difference is counted, so that loading is not
MIB = 1 << 20

PREFILL_ROW, DECODE_ROW, DEEP_ROW = "prefill 512", "decode 128", "decode 128 at 1024"
SWITCHES_ROW, MISSES_ROW = "context switches per token", "cache misses per token"
PEAK_ROW, IDLE_ROW, BUS_ROW = "peak Rss, MiB", "idle CPU, %", "bus: 16 sequences on one core"
OVER_ROW = "memory beyond weights and KV pool, MiB"
SINGLE_ROWS = (PREFILL_ROW, DECODE_ROW, DEEP_ROW)

# Clusters on both cores.
TWO_STAGES = "2 stages"  # the sampler in the last one
HOSTED_STAGES = "2 stages, router in the first"  # and the sampler in the last one
SEPARATE_STAGES = "2 stages, own sampler"
REPLICAS = "2 replicas"

Values = dict[tuple[str, str], float]  # (row, engine) -> value


@dataclass(frozen=True)
class Case:
    rows: tuple[str, ...]
    run: Callable[[set[str]], Values]  # the rows that are wanted -> values


@dataclass(frozen=True)
class Setup:
    ours: Engine
    others: dict[str, Engine]  # by the suffix of their rows' engine, as " huge"
    peers: Sequence[Peer]
    gguf: Path
    same_model: dict[str, Path]  # the same weights in other quantizations, by their names
    shape_gguf: Path | None  # random weights in the shape of the large model
    large_gguf: Path | None  # the large model itself, for the peers
    machine_bench: Path
    cores: tuple[int, int]
    notes: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    @property
    def one(self) -> tuple[int, ...]:
        return self.cores[1:]

    def cores_for(self, threads: int) -> Iterable[int]:
        return self.one if threads == 1 else self.cores


def batch_rows(sequences: int) -> tuple[str, ...]:
    return tuple(f"batch {sequences}{part}" for part in ("", " whole", " window", " client CPU, %"))


ALL_BATCH_ROWS = tuple(row for n in BATCHES for row in batch_rows(n))


def wanted_batches(wanted: set[str]) -> list[int]:
    return [n for n in BATCHES if wanted & set(batch_rows(n))]


def batch(sequences: int, generated: int) -> list[dict[str, Any]]:
    return [request(BATCH_PROMPT, generated, i) for i in range(sequences)]
