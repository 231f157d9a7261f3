"""What a load generator asks, and when. All of it follows from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ChatLoopError

_FORMS = {
    "fixed": ("TOKENS",),
    "uniform": ("LEAST", "MOST"),
    "lognormal": ("MEDIAN", "SIGMA", "MOST"),
}
_PROMPTS = {"prompt", "token_ids", "messages"}
LENGTHS_HELP = "tokens: N, " + " or ".join(
    ":".join((kind, *names)) for kind, names in _FORMS.items() if kind != "fixed"
)


@dataclass(frozen=True)
class Lengths:
    """A distribution of whole numbers from 1 on."""

    kind: str
    numbers: tuple[float, ...]  # as _FORMS names them

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """"128", "uniform:16:256", "lognormal:100:0.8:1000". Raises ValueError."""
        kind, *words = text.split(":") if ":" in text else ("fixed", text)
        if kind not in _FORMS or len(words) != len(_FORMS[kind]):
            raise ValueError(f"{text!r} is not of the form {LENGTHS_HELP}")
        numbers = tuple(map(float, words))
        tokens = numbers if kind != "lognormal" else (numbers[0], numbers[2])
        if list(tokens) != sorted(tokens) or not all(n >= 1 and n == int(n) for n in tokens):
            raise ValueError(f"{text!r}: numbers of tokens are whole, ascending and not 0")
        if kind == "lognormal" and numbers[1] < 0:
            raise ValueError(f"{text!r}: sigma is not negative")
        return cls(kind, numbers)

    def draw(self, rng: random.Random) -> int:
        if self.kind == "fixed":
            return int(self.numbers[0])
        if self.kind == "uniform":
            return rng.randint(int(self.numbers[0]), int(self.numbers[1]))
        median, sigma, most = self.numbers
        return round(min(median * rng.lognormvariate(0.0, sigma), most)) or 1


@dataclass(frozen=True)
class Workload:
    """Requests of random token ids, or those of a dataset.

    A run of a sweep is drawn apart from the others, so that a prefix cache knows none of its
    prompts; within a run all share the first `prefix_len` ids, which come before `input_len`.
    """

    count: int
    input_len: Lengths
    output_len: Lengths
    vocab_size: int
    prefix_len: int = 0
    seed: int = 0
    dataset: Sequence[dict[str, Any]] = ()
    parameters: dict[str, Any] = field(default_factory=dict)  # of every request

    def requests(self, run: int = 0) -> list[dict[str, Any]]:
        """The parameters of each."""
        rng = random.Random(f"{self.seed} requests {run}")
        prefix = self._ids(self.prefix_len, rng)
        found = []
        for i in range(self.count):
            request = {**self.parameters, "max_tokens": self.output_len.draw(rng)}
            if self.dataset:
                request |= self.dataset[(run * self.count + i) % len(self.dataset)]
            else:
                request["token_ids"] = prefix + self._ids(self.input_len.draw(rng), rng)
            found.append(request)
        return found

    def arrivals_s(self, rate_per_s: float, run: int = 0) -> list[float]:
        """When each is due, of a Poisson process."""
        rng = random.Random(f"{self.seed} arrivals {run}")
        now_s, found = 0.0, []
        for _ in range(self.count):
            now_s += rng.expovariate(rate_per_s)
            found.append(now_s)
        return found

    def _ids(self, count: int, rng: random.Random) -> list[int]:
        return rng.choices(range(self.vocab_size), k=count)


def read_dataset(file: Path) -> list[dict[str, Any]]:
    """Lines of JSON, each with `prompt` and maybe other parameters of a request, as the files that
    `chatloop-cpud --requests` takes. Raises ChatLoopError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ChatLoopError("invalid_request", f"{file}: {error}") from error
    found = list(_requests(file, lines))
    if not found:
        raise ChatLoopError("invalid_request", f"{file} has no requests")
    return found


def _requests(file: Path, lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError as error:
            raise ChatLoopError("invalid_request", f"{file}:{number}: {error}") from error
        if not isinstance(request, dict) or not _PROMPTS & request.keys():
            text = f'{file}:{number} is no JSON object with "prompt"'
            raise ChatLoopError("invalid_request", text)
        yield request
