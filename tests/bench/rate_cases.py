"""Cases that give tokens per second, and the bandwidth that bounds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
from arrivals import Arrivals, decode_rate, whole_rate, window_rate
from chatloop import Client
from cluster import Cluster
from cost_cases import idle, switches
from our_engine import Engine, bytes_per_token, cpud_arrivals, request, run_together
from peer_tools import Peer
from process_costs import run_program
from rows import (ALL_BATCH_ROWS, BATCHES, BATCH_PROMPT, BATCH_TOKENS, DECODE, DECODE_ROW, DEEP,
                  DEEP_ROW, HOSTED_STAGES, IDLE_ROW, PREFILL, PREFILL_ROW, REPLICAS,
                  SEPARATE_STAGES, SINGLE_ROWS, SWITCHES_ROW, TWO_STAGES, Case, Setup, Values,
                  batch, batch_rows, wanted_batches)


def roofline(setup: Setup) -> Case:
    rows = ("roofline 4KiB, GB/s", "roofline 2MiB, GB/s")

    def run(_: set[str]) -> Values:
        values = {}
        for copies, cores in ((1, setup.one), (2, setup.cores)):
            command = [setup.machine_bench, "--json", "--only", "bandwidth", "--copies", copies]
            found = json.loads(run_program(command, cores).stdout)
            for row, key in zip(rows, ("read_4KiB", "read_2MiB")):
                if found[key] is None:
                    setup.notes.add(f"{row}: the kernel gives no huge pages")
                else:
                    engine = "one core" if copies == 1 else "both cores"
                    values[row, engine] = found[key]["best_gb_s"]
        return values
    return Case(rows, run)


# ---- ours ----

def cpud_single(setup: Setup, name: str, engine: Engine, shape: Path | None = None) -> Case:
    """Prefill and decode of one stream. With `shape` of that model, in rows of its own."""
    prefix = "1.5B: " if shape else ""
    of_row = {PREFILL_ROW: request(PREFILL, 1), DECODE_ROW: request(1, DECODE + 1),
              DEEP_ROW: request(DEEP, DECODE + 1)}
    if shape:
        del of_row[DEEP_ROW]
    rows = tuple(prefix + row for row in of_row) + (prefix + "bytes a token, MB",)

    def run(wanted: set[str]) -> Values:
        chosen = [row for row in of_row if prefix + row in wanted]
        model = models.split_cached(shape or setup.gguf, 1)
        requests = [request(32, 4), *(of_row[row] for row in chosen)]  # the first one warms
        answers, _ = engine.cpud(model, setup.one, requests)
        values = {(prefix + "bytes a token, MB", name): bytes_per_token(model) / 1e6}
        for row, answer in zip(chosen, answers[1:]):
            values[prefix + row, name] = (
                PREFILL / (answer["prefill_ms"] / 1000) if row == PREFILL_ROW
                else DECODE / (answer["decode_ms"] / 1000))
        return values
    return Case(rows, run)


def batch_values(n: int, name: str, arrivals: Arrivals, one_token: Arrivals) -> Values:
    row, whole, window, _ = batch_rows(n)
    values = {(row, name): decode_rate(arrivals, one_token),
              (whole, name): whole_rate(arrivals)}
    measured = window_rate(arrivals)
    if measured is not None:
        values[window, name] = measured
    return values


def cpud_batched(setup: Setup, name: str, engine: Engine) -> Case:
    def run(wanted: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 1)
        values: Values = {}
        for n in wanted_batches(wanted):
            one, all_tokens = (
                cpud_arrivals(engine.cpud(model, setup.one, batch(n, g), "--concurrent")[0])
                for g in (1, BATCH_TOKENS))
            values |= batch_values(n, name, all_tokens, one)
        return values
    return Case(ALL_BATCH_ROWS, run)


CLUSTERS: dict[str, dict[str, Any]] = {
    TWO_STAGES: {}, HOSTED_STAGES: {"hosted_router": True}, SEPARATE_STAGES: {"own_sampler": True},
    REPLICAS: {"replicas": 2}}


def cluster_rows(setup: Setup, kind: str, suffix: str, engine: Engine) -> Case:
    """A cluster of CLUSTERS on both cores."""
    name = kind + suffix
    is_separate = kind == SEPARATE_STAGES  # for the hops and the rest, not for many streams
    rows = (*SINGLE_ROWS, SWITCHES_ROW, *((IDLE_ROW,) if is_separate else ALL_BATCH_ROWS))

    def run(wanted: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 1 if kind == REPLICAS else 2)
        with engine.cluster(model, setup.cores, **CLUSTERS[kind]) as cluster:
            values: Values = {}
            if IDLE_ROW in wanted and is_separate:
                values |= idle(cluster, name)
            values |= single_streams(cluster, name, wanted)
            if not is_separate:
                values |= batches(cluster, name, wanted)
            return values
    return Case(rows, run)


def single_streams(cluster: Cluster, name: str, wanted: set[str]) -> Values:
    if not wanted & {*SINGLE_ROWS, SWITCHES_ROW}:
        return {}
    values: Values = {}
    client: Client = cluster.client()
    for sequence in range(2):  # each replica
        client.generate(**request(32, 4, sequence))
    if PREFILL_ROW in wanted:
        took = client.generate(**request(PREFILL, 1)).durations
        values[PREFILL_ROW, name] = PREFILL / (took.prefill_ms / 1000)
    if wanted & {DECODE_ROW, SWITCHES_ROW}:
        before = switches(cluster)
        took = client.generate(**request(1, DECODE + 1)).durations
        values[SWITCHES_ROW, name] = (switches(cluster) - before) / (DECODE + 1)
        values[DECODE_ROW, name] = DECODE / (took.decode_ms / 1000)
    if DEEP_ROW in wanted:
        took = client.generate(**request(DEEP, DECODE + 1)).durations
        values[DEEP_ROW, name] = DECODE / (took.decode_ms / 1000)
    return values


def batches(cluster: Cluster, name: str, wanted: set[str]) -> Values:
    values: Values = {}
    for n in wanted_batches(wanted):
        one, _ = run_together(cluster.endpoints["front"], batch(n, 1))
        arrivals, client_s = run_together(cluster.endpoints["front"], batch(n, BATCH_TOKENS))
        values |= batch_values(n, name, arrivals, one)
        values[batch_rows(n)[3], name] = 100 * client_s / max(times[-1] for times in arrivals)
    return values


# ---- the peers ----

def peer_single(setup: Setup, peer: Peer, threads: int) -> Case:
    name, cores = f"{peer.name} -t {threads}", setup.cores_for(threads)

    def run(wanted: set[str]) -> Values:
        values: Values = {}
        if wanted & {PREFILL_ROW, DECODE_ROW}:
            for rate in peer.bench(setup.gguf, threads, cores, PREFILL, DECODE)[0]:
                row = DECODE_ROW if rate.generated else PREFILL_ROW
                values[row, name] = rate.tokens_per_s
        if DEEP_ROW in wanted:
            (rate,) = peer.bench_deep(setup.gguf, threads, cores, DEEP, DECODE)
            values[DEEP_ROW, name] = rate.tokens_per_s
        return values
    return Case(SINGLE_ROWS, run)


def peer_large(setup: Setup, peer: Peer, suffix: str, gguf: Path) -> Case:
    name = f"{peer.name} -t 1{suffix}"
    rows = (f"1.5B: {PREFILL_ROW}", f"1.5B: {DECODE_ROW}")

    def run(_: set[str]) -> Values:
        return {(rows[rate.generated > 0], name): rate.tokens_per_s
                for rate in peer.bench(gguf, 1, setup.one, PREFILL, DECODE)[0]}
    return Case(rows, run)


def peer_batched(setup: Setup, peer: Peer, threads: int, kind: str = "") -> Case:
    """`kind`: another quantization, at 16 and 32 sequences only."""
    name, prefix = f"{peer.name} -t {threads}", f"{kind}: " if kind else ""
    gguf = setup.same_model[kind] if kind else setup.gguf
    rows = tuple(prefix + row for n in BATCHES if n >= 16 or not kind for row in batch_rows(n)[:2])

    def run(wanted: set[str]) -> Values:
        sequences = [n for n in BATCHES if wanted & {prefix + row for row in batch_rows(n)[:2]}]
        values: Values = {}
        for rate in peer.batched(gguf, threads, setup.cores_for(threads), BATCH_PROMPT,
                                 BATCH_TOKENS, sequences):
            row, whole, *_ = batch_rows(rate.sequences)
            values[prefix + row, name] = rate.decode_per_s
            values[prefix + whole, name] = rate.whole_per_s
        return values
    return Case(rows, run)
