"""Clusters that are up at once and take turns under the same load: what sets them apart is what the
ratio of their rates, or of their CPU time per token, tells."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import process_info
from cluster import Cluster

from serving import OurFront

PROMPT_TOKENS = 100
Row = dict[str, float]


def turns_parser(doc: str, rounds: int, max_tokens: int) -> argparse.ArgumentParser:
    """What every bench of clusters in turns takes; `take_turns` reads it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=max_tokens)
    return parser


def prompt_of(number: int, stream: int) -> list[int]:
    """Token ids that are others in every round."""
    return [1000 + (7 * i + 131 * (stream + 100 * number)) % 20000 for i in range(PROMPT_TOKENS)]


class Side:
    """A cluster, and whatever else works for it. The CPU time is what noise moves least."""

    def __init__(self, name: str, cluster: Cluster, others: Sequence[int] = ()) -> None:
        self.name, self.cluster = name, cluster
        self.pids = [*(process.pid for process in cluster.processes.values()), *others]
        self._front = OurFront(cluster.endpoints["front"])

    def round(self, number: int, streams: int, max_tokens: int) -> Row:
        """All streams at once; the prompts are other ones in every round."""
        requests = [{"token_ids": prompt_of(number, stream), "max_tokens": max_tokens,
                     "ignore_eos": True} for stream in range(streams)]
        before_s, began = self.cpu_s(), time.monotonic()
        outcomes = self._front.closed_loop(requests, streams)
        took_s, spent_s = time.monotonic() - began, self.cpu_s() - before_s
        tokens = sum(len(outcome.piece_s) for outcome in outcomes)
        return {"tokens/s": tokens / took_s, "CPU us/token": 1e6 * spent_s / tokens}

    def cpu_s(self) -> float:
        return sum(process_info.cpu_s(pid) for pid in self.pids)


def take_turns(sides: Sequence[Side], options: argparse.Namespace) -> dict[str, list[Row]]:
    """A warm-up each, then a row a side and round, printed; another one begins each time."""
    rows: dict[str, list[Row]] = {side.name: [] for side in sides}

    def run(side: Side, number: int) -> Row:
        return side.round(number, options.streams, options.max_tokens)

    for side in sides:
        run(side, options.rounds)
    for number in range(options.rounds):
        shift = number % len(sides)
        for side in [*sides[shift:], *sides[:shift]]:
            row = run(side, number)
            rows[side.name].append(row)
            print(f"{number} {side.name:12}"
                  + "".join(f"  {what} {value:9.1f}" for what, value in row.items()), flush=True)
    return rows


def print_ratios(rows: dict[str, list[Row]], anchor: str) -> None:
    """By rounds, so that what the machine did meanwhile met both."""
    for name in rows:
        if name == anchor:
            continue
        for what in rows[anchor][0]:
            ratios = [row[what] / base[what]
                      for row, base in zip(rows[name], rows[anchor], strict=True)]
            quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            print(f"{name:12} {what:13} over {anchor}: median {statistics.median(ratios):.4f}, "
                  f"quartiles {quarters[0]:.4f} to {quarters[2]:.4f}")
