"""Cases that give what a token costs besides its time, and what a cluster costs at rest."""

from __future__ import annotations

import time

import models
from arrivals import whole_rate
from cluster import Cluster
from our_engine import Engine, cpud_arrivals, request, run_together, usable_kv_bytes, weight_bytes
from peer_tools import Peer
from process_costs import Outcome, cpu_ns_of, memory_mib_of, switches_of
from rows import (BATCH_TOKENS, BUS_ROW, BUS_SEQUENCES, IDLE_ROW, IDLE_S, MEMORY_KV_MB,
                  MEMORY_SEQUENCES, MIB, MISSES_ROW, OVER_ROW, PEAK_ROW, SWITCHES_ROW,
                  SWITCH_TOKENS, Case, Setup, Values, batch)


def switches(cluster: Cluster) -> int:
    return sum(switches_of(process.pid) for process in cluster.processes.values())


def idle(cluster: Cluster, name: str) -> Values:
    """CPU time of all processes together, and of the busiest one, in percent of one core."""
    time.sleep(1.0)
    processes = list(cluster.processes.values())
    before = [cpu_ns_of(process.pid) for process in processes]
    start_s = time.monotonic()
    time.sleep(IDLE_S)
    lasted_ns = 1e9 * (time.monotonic() - start_s)
    used = [cpu_ns_of(p.pid) - b for p, b in zip(processes, before)]
    return {(IDLE_ROW, name): 100 * sum(used) / lasted_ns,
            (IDLE_ROW, f"{name}: busiest process"): 100 * max(used) / lasted_ns}


def bus_on_one_core(setup: Setup, stages: int) -> Case:
    """Generated tokens over the whole time, all processes on one core, the client on the other."""
    def run(_: set[str]) -> Values:
        load = batch(BUS_SEQUENCES, BATCH_TOKENS)
        model = models.split_cached(setup.gguf, stages or 1)
        if stages == 0:
            answers, _ = setup.ours.cpud(model, setup.one, load, "--concurrent")
            return {(BUS_ROW, "cpud"): whole_rate(cpud_arrivals(answers))}
        unpinned = Engine(setup.ours.build, setup.ours.page_options)
        with unpinned.cluster(model, setup.one) as cluster:
            front = cluster.endpoints["front"]
            run_together(front, batch(2, 4))
            return {(BUS_ROW, f"{stages} stages"): whole_rate(run_together(front, load)[0])}
    return Case((BUS_ROW,), run)


def cluster_memory(setup: Setup) -> Case:
    """Each process: what is resident besides its weights and its KV pool, which is all in use."""
    rows = (OVER_ROW,)

    def run(_: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 2)
        with setup.ours.cluster(model, setup.cores, own_sampler=True,
                                kv_cache_mb=MEMORY_KV_MB) as cluster:
            run_together(cluster.endpoints["front"], batch(MEMORY_SEQUENCES, BATCH_TOKENS))
            size = weight_bytes(model)
            owed = {f"stage-{k}": size[f"partition_{k}"] + kv
                    for k, kv in enumerate(usable_kv_bytes(model, MEMORY_KV_MB))}
            owed["sampler"] = size["partition_head"]
            return {(OVER_ROW, name): memory_mib_of(process.pid)["Rss"] - owed.get(name, 0) / MIB
                    for name, process in cluster.processes.items()}
    return Case(rows, run)


def replica_memory(setup: Setup) -> Case:
    """Two processes with the same weights: their shares of the pages, a process on average."""
    def run(_: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 1)
        with setup.ours.cluster(model, setup.cores, replicas=2,
                                kv_cache_mb=MEMORY_KV_MB) as cluster:
            run_together(cluster.endpoints["front"], batch(MEMORY_SEQUENCES, BATCH_TOKENS))
            workers = [p.pid for name, p in cluster.processes.items() if name != "router"]
            copies = len(workers) if setup.ours.page_options else 1
            (kv,) = usable_kv_bytes(model, MEMORY_KV_MB)
            owed = copies * sum(weight_bytes(model).values()) + len(workers) * kv
            held = sum(memory_mib_of(pid)["Pss"] for pid in workers)
            return {(OVER_ROW, "2 replicas, each (Pss)"): (held - owed / MIB) / len(workers)}
    return Case((OVER_ROW,), run)


def cpud_costs(setup: Setup) -> Case:
    def run(_: set[str]) -> Values:
        model = models.split_cached(setup.gguf, 1)
        short, long = (setup.ours.cpud(model, setup.one, [request(1, tokens)])[1]
                       for tokens in SWITCH_TOKENS)
        return costs(setup, "cpud", short, long)
    return Case((SWITCHES_ROW, MISSES_ROW, PEAK_ROW), run)


def costs(setup: Setup, name: str, short: Outcome, long: Outcome) -> Values:
    tokens = SWITCH_TOKENS[1] - SWITCH_TOKENS[0]
    values = {(SWITCHES_ROW, name): (long.switches - short.switches) / tokens,
              (PEAK_ROW, name): long.peak_rss_mib}
    if long.cache_misses is None:
        setup.notes.add(f"{MISSES_ROW}: not available, the kernel does not count them here")
    else:
        values[MISSES_ROW, name] = (long.cache_misses - short.cache_misses) / tokens
    return values


def peer_costs(setup: Setup, peer: Peer, threads: int) -> Case:
    def run(_: set[str]) -> Values:
        short, long = (peer.bench(setup.gguf, threads, setup.cores_for(threads), 0, tokens)[1]
                       for tokens in SWITCH_TOKENS)
        return costs(setup, f"{peer.name} -t {threads}", short, long)
    return Case((SWITCHES_ROW, MISSES_ROW, PEAK_ROW), run)
