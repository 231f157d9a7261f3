"""Model directories for the tests: splits of a GGUF, kept in the user's cache, and tiny ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tiny_gguf
from model_splitter.report import Reporter
from model_splitter.split import SplitOptions, split

SPLITTER = Path(__file__).resolve().parents[2] / "python" / "model_splitter"
GENERATIONS_KEPT = 9  # splits in the cache, the latest used

# Long enough that an answer of the tiny model is still running while a test looks at it.
TINY_CONTEXT = 8192


def split_cached(gguf: Path, partitions: int) -> Path:
    """The model directory of a cut; its name says the GGUF's bytes, the splitter and the count."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "chatloop" / "test-models"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_sha256_of(gguf)[:16]}-{_splitter_sha256()[:16]}-{partitions}"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="partial.", dir=folder) as partial:
            made = Path(partial) / "model"
            split(SplitOptions(gguf, made, partitions), Reporter(quiet=True))
            try:
                made.rename(target)
            except OSError:
                assert target.exists()  # another run was first, with the same bytes
    os.utime(target)
    _prune(folder)
    return target


def split_tiny(folder: Path, partitions: int, *, kind: str = "Q4_1", seed: int = 0,
               context: int = TINY_CONTEXT, keys: dict[str, object] | None = None,
               tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A model directory of a random model with ten tokens and four layers. The GGUF is beside it:
    <folder>/tiny.gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf = tiny_gguf.write_gguf(folder / "tiny.gguf", kind, seed=seed,
                                keys={"llama.context_length": context, **(keys or {})},
                                tensors=tensors)
    model = folder / f"model-{partitions}"
    split(SplitOptions(gguf, model, partitions), Reporter(quiet=True))
    return model


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _splitter_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(SPLITTER.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _prune(folder: Path) -> None:
    splits = [path for path in folder.iterdir() if not path.name.startswith("partial.")]
    for path in sorted(splits, key=lambda p: p.stat().st_mtime, reverse=True)[GENERATIONS_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)
