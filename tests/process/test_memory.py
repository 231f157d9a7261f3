"""Where a process has its memory and its threads: resident size, page modes, CPUs, NUMA node."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from answers import of_generation
from cluster import READY_TIMEOUT_S, Cluster, Process, wait_until
from damage import stage_options
from process_info import rollup_kib, thread_cpus

OTHER_KIB = 64 << 10  # beside weights and KV cache
KV_MIB = 16
REQUEST = {"prompt": "Once upon a time", "max_tokens": 32, "ignore_eos": True, "logprobs": 1,
           "temperature": 0.8, "seed": 3}
NO_HUGE_PAGES = "import ctypes, os, sys; assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0; " \
                "os.execv(sys.argv[1], sys.argv[1:])"
THREADS = ("chatloop-stage", "ZMQbg/IO/0", "ZMQbg/Reaper")
CPUS = sorted(os.sched_getaffinity(0))


def weights_kib(model: Path, stage: int) -> int:
    """The files of a stage of two; the last hosts the sampler."""
    metadata = json.loads((model / "partition_metadata.json").read_text())
    entries = [metadata["partitions"][stage], *([metadata["head"]] if stage == 1 else [])]
    return sum(entry["bytes"] for entry in entries) >> 10


def ready_line(process: Process) -> str:
    wait_until(lambda: any(m.startswith("ready: ") for m in process.messages()), READY_TIMEOUT_S,
               f"{process.name} is ready")
    return next(m for m in process.messages() if m.startswith("ready: "))


def without_huge_pages(build: Path, log: Path, *options: object) -> Process:
    """A stage that the kernel gives none."""
    return Process("stage", log, [sys.executable, "-c", NO_HUGE_PAGES,
                                  build / "actors" / "chatloop-stage", *options])


# ---- weights ----


@pytest.mark.parametrize("weights", ["mmap", "huge"])
def test_resident_memory(build, smollm2, tmp_path, right_answers, requests, weights):
    """Weights once, the KV cache, and a bounded rest; the page mode changes no bit."""
    model = smollm2(2)
    with Cluster(build, model, tmp_path, stage=(
            "--weights", weights, "--kv-cache-mb", str(KV_MIB))) as cluster:
        client = cluster.client()
        client.generate(token_ids=list(range(100, 740)), max_tokens=1)  # rows at once, many blocks
        answers = [of_generation(client.generate(**request)) for request in requests[:2]]
        assert answers == right_answers[:2]
        for stage in (0, 1):
            process = cluster.processes[f"stage-{stage}"]
            resident = {field: rollup_kib(process.pid, field)
                        for field in ("Rss", "Anonymous", "AnonHugePages")}
            once = weights_kib(model, stage)
            print(weights, stage, resident, once, ready_line(process))
            assert once * 0.9 < resident["Rss"] < once + (KV_MIB << 10) + OTHER_KIB
            if weights == "mmap":
                assert "mapped from the files" in ready_line(process)
                assert resident["Anonymous"] < (KV_MIB << 10) + OTHER_KIB
                continue
            assert resident["Anonymous"] > once * 0.9  # nothing of the files
            assert resident["Rss"] - resident["Anonymous"] < OTHER_KIB
            if "in 2-MiB pages" in ready_line(process):
                assert resident["AnonHugePages"] > once * 0.9
        cluster.stop()


def test_no_huge_pages_to_be_had(build, smollm2, tmp_path, right_answers, requests):
    """The worker says so, goes on, and gives the same bits."""
    model = smollm2(1)
    cluster = Cluster(build, model, tmp_path)
    with cluster.empty():
        cluster.start_router()
        options = stage_options(model)
        options[-1] = cluster.endpoints["ctrl"]
        worker = without_huge_pages(build, tmp_path / "worker.log", *options, "--with-sampler",
                                    "--weights", "huge")
        cluster.processes["worker"] = worker
        cluster.wait_ready()
        assert "0 MiB of it in 2-MiB pages" in ready_line(worker)
        warned = [line for line in map(json.loads, worker.log.read_text().splitlines())
                  if line["level"] == "warn"]
        assert len(warned) == 1 and "transparent_hugepage/enabled" in warned[0]["message"]
        assert rollup_kib(worker.pid, "AnonHugePages") == 0
        answer = of_generation(cluster.client().generate(**requests[0]))
        assert answer == right_answers[0]
        cluster.stop()


def test_a_copy_outlives_its_file(build, model, tmp_path):
    """With weights in a copy a file may go while a worker runs (tests of mmap: test_lost_pages)."""
    request = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 50, "seed": 1}
    with Cluster(build, model, tmp_path / "cluster", stage=("--weights", "huge")) as cluster:
        client = cluster.client()
        before = of_generation(client.generate(**request))
        for name in ("partition_0", "partition_1", "partition_head"):
            os.truncate(model / f"{name}.safetensors", 0)
        assert of_generation(client.generate(**request)) == before
        cluster.stop()


def test_preallocated_activations(build, smollm2, tmp_path):
    """They are resident at the start, or come as they are used."""
    anonymous = {}
    for switch in ("true", "false"):
        file = tmp_path / f"{switch}.yaml"
        file.write_text(f"performance: {{preallocate_activations: {switch}}}\n")
        process = Process("stage", tmp_path / f"{switch}.log", [
            build / "actors" / "chatloop-stage", "--config", file, *stage_options(smollm2(1))])
        try:
            ready_line(process)
            anonymous[switch] = rollup_kib(process.pid, "Anonymous")
        finally:
            process.kill()
    assert anonymous["true"] - anonymous["false"] > 2 << 10, anonymous


# ---- CPUs ----


@pytest.fixture
def placed(build, tiny_model, tmp_path):
    """A stage with these options; thread name -> its CPUs."""

    def run(*options: object) -> dict[str, set[int]]:
        process = Process("stage", tmp_path / "log", [
            build / "actors" / "chatloop-stage", *stage_options(tiny_model), *options])
        try:
            # A thread of libzmq takes its place, then its name.
            wait_until(lambda: sorted(thread_cpus(process.pid)) == sorted(THREADS), 20,
                       "all threads have their names")
            return thread_cpus(process.pid)
        finally:
            process.kill()

    return run


def test_libzmq_s_threads_keep_off_the_compute_core(placed):
    own, *io = THREADS
    cpus = placed("--enable-cpu-pinning", "--cpu-cores", CPUS[0])
    assert cpus[own] == {CPUS[0]}
    for thread in io:  # on a machine of one CPU they have no other
        assert cpus[thread] == (set(CPUS[1:]) or {CPUS[0]})


def test_libzmq_s_threads_where_they_are_told(placed):
    own, *io = THREADS
    cpus = placed("--enable-cpu-pinning", "--cpu-cores", CPUS[0], "--io-cpu-cores", CPUS[0])
    assert cpus == dict.fromkeys(THREADS, {CPUS[0]})
    cpus = placed("--io-cpu-cores", CPUS[-1])
    assert cpus == {own: set(CPUS), **dict.fromkeys(io, {CPUS[-1]})}


def test_pinned_to_every_cpu_and_not_pinned(placed):
    everywhere = dict.fromkeys(THREADS, set(CPUS))
    every = ",".join(map(str, CPUS))
    assert placed("--enable-cpu-pinning", "--cpu-cores", every) == everywhere
    assert placed() == everywhere


# ---- NUMA ----


NODES = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))


@pytest.mark.skipif(not NODES, reason="this kernel knows no NUMA nodes")
def test_a_numa_node(build, tiny_model, tmp_path):
    number = NODES[0].name.removeprefix("node")
    file = tmp_path / "stage.yaml"
    file.write_text(f"worker: {{numa_node: {number}}}\nperformance: {{weights: huge}}\n")
    process = Process("stage", tmp_path / "log", [
        build / "actors" / "chatloop-stage", "--config", file, *stage_options(tiny_model)])
    try:
        ready_line(process)
        bound = Path(f"/proc/{process.pid}/numa_maps").read_text()
        own = os.sched_getaffinity(process.pid)
    finally:
        process.kill()
    assert f" bind:{number} " in bound
    listed = (NODES[0] / "cpulist").read_text().strip()
    of_node = {cpu for part in listed.split(",") for ends in [part.split("-")]
               for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
    assert own == of_node & set(CPUS)


def test_a_numa_node_that_does_not_exist(refusal, tiny_model):
    for node in (7, 1023):
        line = refusal("chatloop-stage", *stage_options(tiny_model), "--numa-node", node)
        assert line.startswith(f"chatloop-stage: --numa-node: there is no NUMA node {node} on this "
                               "machine; it has ")
    refusal("chatloop-router", "--model", tiny_model, "--numa-node", 7)
    assert "an integer from 0" in refusal("chatloop-stage", *stage_options(tiny_model),
                                          "--numa-node", 1024)
