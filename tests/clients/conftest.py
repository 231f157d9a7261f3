"""A cluster of real processes for clients that others wrote. See tests/process/paths.py for the
variables that name build and model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from cluster import Cluster  # noqa: E402
from paths import build, gguf  # noqa: E402, F401  (fixtures)

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def cluster(build, gguf, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("sk-test\n")
    with Cluster(build, models.split_cached(gguf, 2), tmp_path_factory.mktemp("clients"),
                 router=["--http", "127.0.0.1:*", "--api-keys-file", str(keys)]) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture(scope="session")
def url(cluster) -> str:
    """The base URL that OpenAI's clients are given."""
    return cluster.endpoints["http"] + "/v1"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
