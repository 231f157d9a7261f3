"""The peers' benchmark programs: how they are called, and what they print.

llama-bench and llama-batched-bench of llama.cpp and of ik_llama.cpp (peers/ has the build scripts).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_costs import Outcome, run_program

BATCH_CONTEXT = 8192  # 32 sequences of 128 + 64 tokens, in equal shares


@dataclass(frozen=True)
class Peer:
    name: str
    folder: Path  # with llama-bench and llama-batched-bench in it
    bench_options: tuple[str, ...] = ("-fa", "1")
    batched_options: tuple[str, ...] = ("-fa", "on")
    has_depth: bool = True  # llama-bench -d; the fork says -gp

    def bench(self, gguf: Path, threads: int, cores: Iterable[int], prompt: int,
              generated: int) -> tuple[list[Rate], Outcome]:
        return self._bench(gguf, threads, cores, "-p", prompt, "-n", generated)

    def bench_deep(self, gguf: Path, threads: int, cores: Iterable[int], depth: int,
                   generated: int) -> list[Rate]:
        """Generation after `depth` tokens, which are not in the time."""
        words = ["-p", 0, "-n", generated, "-d", depth] if self.has_depth else \
            ["-p", 0, "-n", 0, "-gp", f"{depth},{generated}"]
        return self._bench(gguf, threads, cores, *words)[0]

    def _bench(self, gguf: Path, threads: int, cores: Iterable[int],
               *words: object) -> tuple[list[Rate], Outcome]:
        outcome = run_program(
            [self.folder / "llama-bench", "-m", gguf, "-t", threads, "-r", 1, "-o", "json",
             *self.bench_options, *words], cores)
        return parse_bench(outcome.stdout), outcome

    def batched(self, gguf: Path, threads: int, cores: Iterable[int], prompt: int, generated: int,
                sequences: Sequence[int]) -> list[BatchedRate]:
        outcome = run_program(
            [self.folder / "llama-batched-bench", "-m", gguf, "-t", threads, "-tb", threads,
             "-c", BATCH_CONTEXT, "-npp", prompt, "-ntg", generated,
             "-npl", ",".join(map(str, sequences)), *self.batched_options], cores)
        return parse_batched(outcome.stdout + outcome.stderr)  # the fork's is on stderr


@dataclass(frozen=True)
class Rate:
    """One test of llama-bench. With a prompt and no generation it is prefill, else decode."""

    prompt: int
    generated: int
    tokens_per_s: float


@dataclass(frozen=True)
class BatchedRate:
    """One line of llama-batched-bench."""

    sequences: int
    prefill_per_s: float
    decode_per_s: float
    whole_per_s: float  # generated tokens over the whole time, the prompts' included


def parse_bench(text: str) -> list[Rate]:
    """From `-o json`; the programs may say other things before and after it."""
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        raise ValueError(f"no JSON list in llama-bench's output: {text[-300:]!r}")
    return [Rate(test["n_prompt"], test["n_gen"], float(test["avg_ts"]))
            for test in json.loads(text[start:end + 1])]


def parse_batched(text: str) -> list[BatchedRate]:
    """From the table; its columns are found by their names."""
    names: list[str] = []
    rates = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "PP":
            names = cells
        elif names and len(cells) == len(names) and cells[0].isdigit():
            row = dict(zip(names, map(float, cells)))
            rates.append(BatchedRate(int(row["B"]), row["S_PP t/s"], row["S_TG t/s"],
                                     row["B"] * row["TG"] / row["T s"]))
    if not rates:
        raise ValueError(f"no table in llama-batched-bench's output: {text[-300:]!r}")
    return rates


def find_peers(folder: Path | None, with_huge_pages: bool) -> tuple[list[Peer], list[str]]:
    """The peers that are built under `folder`, and a line for each that is missing."""
    scripts = "tests/bench/peers/build_llama_cpp.sh and build_ik_llama.sh"
    if folder is None:
        return [], [f"no peers: build them with {scripts} and name their folder by --peers"]
    peers, missing = [], []
    for name, subfolder in (("llama", "llama"), ("ik", "ik")):
        bin_folder = folder / subfolder / "build" / "bin"
        tools = [bin_folder / tool for tool in ("llama-bench", "llama-batched-bench")]
        if not all(tool.exists() for tool in tools):
            missing.append(f"{name} is left out: {bin_folder} has no {tools[0].name} and "
                           f"{tools[1].name}; build them with {scripts}")
        elif name == "llama":
            peers.append(Peer(name, bin_folder))
        else:
            bench, batched = ("-fa", "1", "-rtr", "1"), ("-fa", "on", "-rtr")
            peers.append(Peer(name, bin_folder, bench, batched, has_depth=False))
            if with_huge_pages:
                peers.append(Peer("ik thp", bin_folder, (*bench, "-thp", "1"), (*batched, "-thp"),
                                  has_depth=False))
    return peers, missing
