"""Fixtures of the build and the model that processes are started with, for every folder of tests
that starts some.

CHATLOOP_BUILD is the build folder (default: build/), CHATLOOP_TEST_GGUF SmolLM2's file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build() -> Path:
    return Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")


@pytest.fixture(scope="session")
def gguf() -> Path:
    """SmolLM2-135M-Instruct Q4_1, which tests/data/smollm2_reference.json was made with."""
    path = os.environ.get("CHATLOOP_TEST_GGUF")
    if not path:
        pytest.skip("CHATLOOP_TEST_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf")
    return Path(path)
