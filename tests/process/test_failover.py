"""kill -9, SIGSTOP and SIGTERM amid answers: each comes out bit for bit as without it."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from answers import Answer, of_generation
from chatloop import ChatLoopError, Client
from cluster import Cluster, wait_until
from counts import rising

STREAMS = 16
BACK_S = 20.0
KILLS_LONG = 100
SLOW_S = 1.5
ALL = ("stage-0", "stage-1", "sampler")


def request(i: int, max_tokens: int = 400) -> dict:
    """Greedy and sampled ones, with prompts of one to six blocks."""
    prompt = [2 + (7 * i + j) % 8 for j in range(5 + 60 * (i % 6))]
    return {"token_ids": prompt, "ignore_eos": True, "max_tokens": max_tokens, "logprobs": 1,
            "temperature": 0.8 * (i % 2), "seed": i}


class Askers:
    """So many clients, each amid an answer, whose threads read it."""

    def __init__(self, cluster: Cluster, count: int, max_tokens: int = 400) -> None:
        self.outcomes: list[Answer | ChatLoopError | None] = [None] * count
        self._begun = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._ask, args=(i, cluster.client(), max_tokens), daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._begun.acquire(timeout=60.0), "no first token"

    def _ask(self, i: int, client: Client, max_tokens: int) -> None:
        try:
            with client.stream(**request(i, max_tokens)) as stream:
                next(stream)
                self._begun.release()
                for _ in stream:
                    pass
                self.outcomes[i] = of_generation(stream.result)
        except ChatLoopError as error:
            self.outcomes[i] = error
            self._begun.release()

    @property
    def running(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def ends(self) -> list[Answer | ChatLoopError | None]:
        for thread in self._threads:
            thread.join(120.0)
        return self.outcomes


@pytest.fixture(scope="module")
def right(build, tiny_model, tmp_path_factory) -> dict[int, list[Answer]]:
    """By max_tokens: what an unfaulted cluster answers to the first STREAMS requests."""
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("right"), own_sampler=True) as cluster:
        found = {most: Askers(cluster, STREAMS, most).ends() for most in (400, 2000)}
        cluster.stop()
    return found


@pytest.fixture
def cluster(build, tiny_model, tmp_path) -> Iterator[Cluster]:
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        yield cluster
        if cluster.processes["router"].exit_code is None:
            assert cluster.client().status()["running"] == 0
        cluster.stop()


def add_spare(cluster: Cluster, name: str) -> None:
    if name == "sampler":
        cluster.start_worker("spare", "chatloop-sampler")
    else:
        cluster.start_worker("spare", "chatloop-stage", "--partition", name[-1])
    wait_for_workers(cluster, 4)


def wait_for_workers(cluster: Cluster, count: int) -> None:
    client = cluster.client()
    wait_until(lambda: [w["state"] for w in client.status()["workers"]] == ["ready"] * count,
               BACK_S, f"{count} workers are ready")


# ---- kill -9 ----


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spare", [False, True], ids=["restarted", "spare"])
def test_one_killed_amid_answers(cluster, right, name, spare):
    watch = cluster.client()
    if spare:
        add_spare(cluster, name)
    askers = Askers(cluster, STREAMS, 2000)
    interrupted = {"routes_down": 1, "workers_lost": 1, "recoveries": 1}
    with rising(watch, interrupted | ({} if name == "sampler" else {"replays": 1})):
        assert askers.running == STREAMS
        cluster.processes[name].kill()
        if not spare:
            cluster.restart(name)
        assert askers.ends() == right[2000]
    if name == "sampler":
        assert watch.status()["counters"]["replays"] == 0  # the stages held what they had
    if spare:
        cluster.restart(name)
        wait_for_workers(cluster, 4)


def kill_many(cluster: Cluster, right: list[Answer], kills: int, seed: int) -> None:
    """Random workers at random times, each restarted at once; new answers begin as others end."""
    dice = random.Random(seed)
    done = 0
    while done < kills:
        askers = Askers(cluster, STREAMS, 2000)
        while done < kills and askers.running > STREAMS // 2:
            time.sleep(dice.uniform(0.0, 0.4))
            cluster.restart(dice.choice(ALL))
            done += 1
        assert askers.ends() == right


def test_ten_kills_under_sixteen_streams(cluster, right):
    kill_many(cluster, right[2000], 10, seed=1)


@pytest.mark.long
def test_a_hundred_kills_under_sixteen_streams(cluster, right):
    kill_many(cluster, right[2000], KILLS_LONG, seed=2)


def test_two_at_once_and_one_more_amid_the_replay(cluster, right):
    askers = Askers(cluster, STREAMS, 2000)
    cluster.restart("stage-0")
    cluster.restart("stage-1")
    watch = cluster.client()
    wait_until(lambda: watch.status()["ready"], BACK_S, "the route is back")
    cluster.restart("stage-1")
    assert askers.ends() == right[2000]


def test_the_rejoined_serve_new_requests(cluster, right):
    askers = Askers(cluster, 4)
    for name in ALL:
        cluster.restart(name)
    assert askers.ends() == right[400][:4]
    assert Askers(cluster, 4).ends() == right[400][:4]
    client = cluster.client()
    executed = {w["name"]: w["counters"]["frames_executed"] for w in client.status()["workers"]}
    assert set(executed) == set(ALL)


def test_no_replica_is_a_clear_error_with_what_was_committed(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True,
                 router=("--route-wait-secs", "1.5")) as cluster:
        stream = cluster.client().stream(**request(0, 8000))
        for _ in range(5):
            next(stream)
        cluster.processes["stage-1"].kill()
        with pytest.raises(ChatLoopError) as caught:
            for _ in stream:
                pass
        error = caught.value
        assert (error.code, error.retryable) == ("no_route", True)
        assert error.committed == len(error.progress.token_ids) >= 5
        assert f"{error.committed} tokens committed" in error.message
        cluster.restart("stage-1")
        resumed = cluster.client().resume(error.progress)
        assert sum(len(piece.token_ids) for piece in resumed) + error.committed == 8000
        cluster.stop()


# ---- SIGSTOP ----


@pytest.mark.parametrize("name", [*ALL, "router"])
@pytest.mark.parametrize("pause_s", [0.3, 1.5])
def test_one_stopped_for_a_while(cluster, right, name, pause_s):
    """A short pause is nobody's fault. After a long one a worker is fenced, and has its KV."""
    watch = cluster.client()
    askers = Askers(cluster, STREAMS, 2000)
    assert askers.running == STREAMS
    pid = cluster.processes[name]
    pid.signal(signal.SIGSTOP)
    try:
        time.sleep(pause_s)
    finally:
        pid.signal(signal.SIGCONT)
    assert askers.ends() == right[2000]
    counters = watch.status()["counters"]
    assert counters["replays"] == 0 and counters["workers_lost"] == 0
    if name != "router" and pause_s > 1.0:
        assert counters["routes_down"] >= 1


@pytest.mark.parametrize("name", ALL)
def test_a_slow_worker_only_slows(cluster, right, name):
    """It runs for a fifth of the time, a moment now and then: nobody takes that for a fault."""
    watch = cluster.client()
    askers = Askers(cluster, STREAMS, 2000)
    slow = cluster.processes[name]
    end_s = time.monotonic() + SLOW_S
    try:
        while time.monotonic() < end_s:
            slow.signal(signal.SIGSTOP)
            time.sleep(0.04)
            slow.signal(signal.SIGCONT)
            time.sleep(0.01)
    finally:
        slow.signal(signal.SIGCONT)
    assert askers.running == STREAMS
    assert askers.ends() == right[2000]
    counters = watch.status()["counters"]
    assert [counters[name] for name in ("routes_down", "replays", "workers_lost")] == [0, 0, 0]


def test_one_stopped_with_a_spare(cluster, right):
    """The spare takes over; what the other does when it goes on hurts nobody."""
    add_spare(cluster, "stage-1")
    askers = Askers(cluster, STREAMS, 2000)
    stopped = cluster.processes["stage-1"]
    stopped.signal(signal.SIGSTOP)
    try:
        assert askers.ends() == right[2000]
    finally:
        stopped.signal(signal.SIGCONT)
    wait_for_workers(cluster, 4)
    assert Askers(cluster, 4).ends() == right[400][:4]


# ---- SIGTERM ----


def test_a_draining_worker_hands_over(cluster, right):
    """Between two tokens, to the spare: it need not wait for the end of the answers."""
    add_spare(cluster, "stage-0")
    askers = Askers(cluster, STREAMS, 2000)
    drains = cluster.processes.pop("stage-0")
    drains.terminate()
    assert drains.wait(10.0) == 0
    assert askers.running > 0
    assert askers.ends() == right[2000]
    assert cluster.client().status()["counters"]["routes_down"] == 0


def test_a_rolling_restart_of_all_workers(cluster, right):
    """With a replica of each, one after another, and not one request fails."""
    for name, actor, more in (("stage-0b", "chatloop-stage", ("--partition", 0)),
                              ("stage-1b", "chatloop-stage", ("--partition", 1)),
                              ("sampler-b", "chatloop-sampler", ())):
        cluster.start_worker(name, actor, *more)
    wait_for_workers(cluster, 6)
    watch = cluster.client()
    wait_until(lambda: len([r for r in watch.status()["routes"] if r["up"]]) == 2, BACK_S,
               "two routes")
    for name in (*ALL, "stage-0b", "stage-1b", "sampler-b"):
        askers = Askers(cluster, 8)
        old = cluster.processes[name]
        old.terminate()
        assert old.wait(30.0) == 0
        cluster.restart(name)
        wait_for_workers(cluster, 6)
        assert askers.ends() == right[400][:8]


# ---- the router ----


def test_the_router_killed_amid_answers(cluster, right):
    """A new one at its address: the client library asks it to go on, with the tokens so far."""
    askers = Askers(cluster, STREAMS, 2000)
    cluster.restart_router()
    assert askers.running == STREAMS
    assert askers.ends() == right[2000]
    assert cluster.client().status()["counters"]["requests"] >= STREAMS


def test_the_router_and_a_stage_killed_together(cluster, right):
    askers = Askers(cluster, STREAMS, 2000)
    cluster.processes["stage-1"].kill()
    cluster.restart_router()
    cluster.restart("stage-1")
    assert askers.ends() == right[2000]
