"""Our engine as users run it: chatloop-cpud, or a cluster of processes and the Python client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrivals import Arrivals
from chatloop import AsyncClient, Client
from cluster import READY_TIMEOUT_S, Cluster, wait_until
from process_costs import Outcome, on_cores, run_program

KV_BLOCK_POSITIONS = 64


def request(prompt_tokens: int, generated: int, sequence: int = 0) -> dict[str, Any]:
    """Ordinary token ids, another sequence for each; greedy, and no stop before its length."""
    ids = [1000 + (7 * i + 131 * sequence) % 20000 for i in range(prompt_tokens)]
    return {"token_ids": ids, "max_tokens": generated, "ignore_eos": True}


@dataclass(frozen=True)
class Engine:
    build: Path
    page_options: tuple[str, ...] = ()  # () is mmap; ("--weights", "huge")
    pin_stages: bool = False

    def cpud(self, model: Path, cores: Iterable[int], requests: Sequence[dict[str, Any]],
             *options: object) -> tuple[list[dict[str, Any]], Outcome]:
        """The answers as `chatloop-cpud --json` gives them, in the order of the requests."""
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(one) + "\n" for one in requests)
            file.flush()
            outcome = run_program(
                [self.build / "actors" / "chatloop-cpud", "--model", model, "--json",
                 "--requests", file.name, *self.page_options, *options], cores)
        answers = [json.loads(line) for line in outcome.stdout.splitlines()]
        assert not any("error" in answer for answer in answers), answers
        return answers, outcome

    @contextlib.contextmanager
    def cluster(self, model: Path, cores: Sequence[int], *, own_sampler: bool = False,
                hosted_router: bool = False, replicas: int = 1, kv_cache_mb: int = 512,
                stage_options: Sequence[str] = (),
                router: Sequence[str] = ()) -> Iterator[Cluster]:
        """Router and stages, on `cores`. With replicas the model has one partition. `router`:
        options, of a hosted one lines of YAML."""
        stage = ("--kv-cache-mb", str(kv_cache_mb), *self.page_options, *stage_options)
        pinned = {k: ("--enable-cpu-pinning", "--cpu-cores", str(cores[k % len(cores)]))
                  for k in range(64)} if self.pin_stages else {}
        with tempfile.TemporaryDirectory() as folder:
            made = Cluster(self.build, model, Path(folder), own_sampler=own_sampler,
                           hosted_router=hosted_router, router=router, stage=stage,
                           sampler=self.page_options, stage_of=pinned)
            with made.empty() as cluster:
                with on_cores(cores):  # the processes; the client may be elsewhere
                    cluster.start_router()
                    cluster.start_workers()
                    for k in range(1, replicas):
                        cluster.start_worker(f"replica-{k}", "chatloop-stage", "--partition", 0,
                                             "--with-sampler", *stage, *pinned.get(k, ()))
                client = cluster.client()
                wait_until(lambda: routes_up(client) == replicas, READY_TIMEOUT_S,
                           f"{replicas} routes are up")
                yield cluster
                cluster.stop()


def routes_up(client: Client) -> int:
    return int(client.status()["counters"]["routes_up"])


def has_option(build: Path, option: str) -> bool:
    shown = subprocess.run([build / "actors" / "chatloop-cpud", "--help"], capture_output=True,
                           text=True, check=True)
    return option in shown.stdout


def run_together(front: str, requests: Sequence[dict[str, Any]]) -> tuple[Arrivals, float]:
    """All at once through one AsyncClient; also the CPU seconds that the client took."""
    async def one(client: AsyncClient, parameters: dict[str, Any], start_s: float) -> list[float]:
        times: list[float] = []
        async with client.stream(**parameters) as stream:
            async for piece in stream:
                times += [time.monotonic() - start_s] * len(piece.token_ids)
        return times

    async def all_of_them() -> list[list[float]]:
        async with AsyncClient(front) as client:
            await client.status()
            start_s = time.monotonic()
            return await asyncio.gather(*(one(client, r, start_s) for r in requests))

    before_s = time.process_time()
    arrivals = asyncio.run(all_of_them())
    return arrivals, time.process_time() - before_s


def cpud_arrivals(answers: Sequence[dict[str, Any]]) -> Arrivals:
    return [[ms / 1000 for ms in answer["token_ms"]] for answer in answers]


def bytes_per_token(model: Path) -> int:
    """What one decoded token reads of the weights: all but tables of which it reads a row."""
    total = 0
    for file in sorted(model.glob("partition_*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(at["data_offsets"][1] - at["data_offsets"][0]
                     for name, at in header.items()
                     if not name.startswith(("__metadata__", "embed.", "rope.", "pad.")))
    return total


def weight_bytes(model: Path) -> dict[str, int]:
    """The size of each weights file, by its name without the suffix."""
    return {file.stem: file.stat().st_size for file in model.glob("partition_*.safetensors")}


def usable_kv_bytes(model: Path, kv_cache_mb: int) -> list[int]:
    """What each stage holds of its f16 KV pool when the route is full: as many blocks as the stage
    with the fewest has."""
    spec = json.loads((model / "partition_metadata.json").read_text())
    layer_block = KV_BLOCK_POSITIONS * spec["n_kv_heads"] * spec["head_dim"] * 2 * 2
    blocks = [(p["layer_end"] - p["layer_first"]) * layer_block for p in spec["partitions"]]
    count = min((kv_cache_mb << 20) // block for block in blocks)
    return [count * block for block in blocks]
