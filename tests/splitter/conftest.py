"""Makes the splitter and the oracle importable, and names the real model where there is one."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process")]


@pytest.fixture(scope="session")
def real_gguf() -> str:
    """SmolLM2-135M-Instruct Q4_1, which tests/data/smollm2_reference.json was made with."""
    path = os.environ.get("CHATLOOP_TEST_GGUF")
    if not path:
        pytest.skip("CHATLOOP_TEST_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf")
    return path
