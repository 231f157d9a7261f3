"""The models that the benchmark makes, in the user's cache: they are made once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import random_gguf

SHAPE_KIND = "Q4_0"


def folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = cache / "chatloop" / "bench-models"
    made.mkdir(parents=True, exist_ok=True)
    return made


def requantized(gguf: Path, kind: str, quantize: Path) -> Path:
    """Another quantization of the same model, for speed only: it was quantized before."""
    def make(target: Path) -> None:
        subprocess.run([quantize, "--allow-requantize", gguf, target, kind], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _once(folder() / f"{gguf.stem}.as.{kind}.gguf", make, newer_than=gguf)


def random_shape() -> Path:
    """Random weights in the shape of a 1.5B model."""
    return _once(folder() / f"random-1.5B.{SHAPE_KIND}.gguf",
                 lambda target: random_gguf.write(target, SHAPE_KIND),
                 newer_than=Path(random_gguf.__file__))


def _once(target: Path, make: Callable[[Path], None], *, newer_than: Path) -> Path:
    if not target.exists() or target.stat().st_mtime < newer_than.stat().st_mtime:
        partial = target.with_name(f"partial.{target.name}")
        make(partial)
        partial.rename(target)
    return target
