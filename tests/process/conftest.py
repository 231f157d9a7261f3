"""The models, and the cluster that most tests share. Real processes, no fakes."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXIT_CONFIG = 64
REFUSAL_TIMEOUT_S = 20.0
PR_SET_CHILD_SUBREAPER = 36
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from answers import Answer, ask_cpud, of_generation  # noqa: E402
from chatloop import Client  # noqa: E402
from cluster import Cluster  # noqa: E402
from paths import build, gguf  # noqa: E402, F401  (fixtures)

WITNESS = {"token_ids": [2, 3, 4, 5, 6], "ignore_eos": True, "max_tokens": 150, "logprobs": 1,
           "temperature": 0.9, "seed": 11}

PROMPTS = ["Once upon a time", "The sea", "def fibonacci(n):", "The capital of France is",
           "1, 2, 3,", "Dear Sir or Madam,", "In the beginning", "To be or not to be"]


def pytest_addoption(parser):
    parser.addoption("--requests", type=int, help="of test_soak.py's long test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the processes that it used have logged."""
    report = yield
    if report.failed:
        for cluster in Cluster.live:
            report.sections.append(("cluster", cluster.logs()))
    return report


@pytest.fixture
def adopts_orphans():
    """Processes below this one whose parent ends become its children: it hears their exit codes."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


@pytest.fixture(scope="session")
def smollm2(gguf):
    """partitions -> model directory"""
    return lambda partitions: models.split_cached(gguf, partitions)


@pytest.fixture(scope="session")
def reference() -> dict:
    """llama.cpp's answers; the file's `note` says how they were made."""
    return json.loads((ROOT / "tests" / "data" / "smollm2_reference.json").read_text())


@pytest.fixture(scope="session")
def smollm2_cluster(build, smollm2, tmp_path_factory):
    """Two stage processes, the sampler in the second. Tests leave it running and idle."""
    with Cluster(build, smollm2(2), tmp_path_factory.mktemp("smollm2")) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture(scope="session")
def http_cluster(build, smollm2, tmp_path_factory):
    """As smollm2_cluster, with HTTP. Tests leave it running and idle."""
    metrics = ["--metrics", "127.0.0.1:*"]
    with Cluster(build, smollm2(2), tmp_path_factory.mktemp("http"), stage=metrics,
                 router=["--http", "127.0.0.1:*", *metrics]) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture(scope="session")
def requests() -> list[dict]:
    """Eight different ones, greedy and sampled, of some seconds together."""
    return [{"prompt": prompt, "max_tokens": 32, "ignore_eos": True, "logprobs": 1,
             "temperature": 0.7 * (i % 2), "seed": i} for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="session")
def right_answers(build, smollm2, requests, tmp_path_factory) -> list[Answer]:
    return ask_cpud(build, smollm2(1), tmp_path_factory.mktemp("right"), requests)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random model of ten tokens in two partitions: thousands of tokens a second."""
    return models.split_tiny(tmp_path_factory.mktemp("tiny"), 2)


@pytest.fixture(scope="module")
def tiny_cluster(build, tiny_model, tmp_path_factory):
    """The tiny model as a router, two stages and a sampler of its own. Left running and idle."""
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("tiny-cluster"),
                 own_sampler=True) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture(scope="module")
def witness_answer(tiny_cluster) -> Answer:
    return of_generation(tiny_cluster.client().generate(**WITNESS))


@pytest.fixture
def witness(tiny_cluster, witness_answer):
    """Another client of the tiny cluster, amid an answer while the test runs. It must come out bit
    for bit, and no process may have ended."""
    with Client(tiny_cluster.endpoints["front"], timeout_s=60.0) as client:
        with client.stream(**WITNESS) as stream:
            next(stream)
            yield client
            for _ in stream:
                pass
            assert of_generation(stream.result) == witness_answer
        assert of_generation(client.generate(**WITNESS)) == witness_answer
    assert all(process.exit_code is None for process in tiny_cluster.processes.values())


# ---- damaged model directories ----


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def refusal(build):
    """Runs an actor that must refuse to start; returns the one line that it says."""

    def run(actor: str, *options: object, code: int = EXIT_CONFIG, under: list[str] = []) -> str:
        command = [*under, build / "actors" / actor, *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              timeout=REFUSAL_TIMEOUT_S, stdin=subprocess.DEVNULL)
        assert done.returncode == code, (done.returncode, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and done.stdout == "", done
        assert lines[0].startswith(f"{actor}: ") and len(lines[0]) < 400
        return lines[0]

    return run
