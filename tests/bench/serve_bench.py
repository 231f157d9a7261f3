"""Tokens per second of real processes: one stream, prefill, and many streams at once.

    CHATLOOP_BUILD=build tests/bench/serve_bench.py --gguf FILE.gguf [--partitions N] [--runs 5]

Prints minimum, median and maximum over the runs. Nothing else may use the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from chatloop import Client  # noqa: E402
from cluster import Cluster  # noqa: E402

PREFILL_TOKENS = 512
DECODE_TOKENS = 128
BATCH_TOKENS = 64


def prompt(length: int, stream: int = 0) -> list[int]:
    """Ordinary token ids, another sequence for each stream."""
    return [1000 + (7 * i + 131 * stream) % 20000 for i in range(length)]


def decode_one(client: Client) -> float:
    result = client.generate(token_ids=prompt(32), max_tokens=DECODE_TOKENS, ignore_eos=True)
    return (DECODE_TOKENS - 1) / (result.durations.decode_ms / 1000)


def prefill_one(client: Client) -> float:
    result = client.generate(token_ids=prompt(PREFILL_TOKENS), max_tokens=1, ignore_eos=True)
    return PREFILL_TOKENS / (result.durations.prefill_ms / 1000)


def decode_many(front: str, streams: int) -> float:
    """Generated tokens over the time until the last answer, prompts included."""
    def run(stream: int) -> None:
        with Client(front) as client:
            client.generate(token_ids=prompt(32, stream), max_tokens=BATCH_TOKENS, ignore_eos=True)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(streams)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return streams * BATCH_TOKENS / (time.monotonic() - began)


def report(name: str, runs: int, measure: Callable[[], float]) -> None:
    measure()  # warm
    rates = [measure() for _ in range(runs)]
    print(f"{name:<28} {min(rates):8.1f} {statistics.median(rates):8.1f} {max(rates):8.1f}",
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    model = models.split_cached(options.gguf, options.partitions)
    print(f"{options.gguf.name}, {options.partitions} stage processes, sampler in the last")
    print(f"{'tokens/s':<28} {'min':>8} {'median':>8} {'max':>8}")
    with tempfile.TemporaryDirectory() as folder, Cluster(build, model, Path(folder)) as cluster:
        client = cluster.client()
        front = cluster.endpoints["front"]
        report(f"prefill {PREFILL_TOKENS}", options.runs, lambda: prefill_one(client))
        report(f"decode {DECODE_TOKENS}, 1 stream", options.runs, lambda: decode_one(client))
        for streams in (2, 8, 32):
            report(f"decode {BATCH_TOKENS}, {streams} streams", options.runs,
                   lambda: decode_many(front, streams))
        cluster.stop()


if __name__ == "__main__":
    main()
