"""What an answer is when bits are compared, whoever gave it: a cluster or chatloop-cpud."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatloop import Client, Generation

# (token id, bits of its log-probability, the same of its rivals)
Entry = tuple[int, int, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Answer:
    """All of an answer that must not depend on how it was computed."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    seed: int
    fingerprint: str
    logprobs: tuple[Entry, ...]
    prompt_logprobs: tuple[Entry | None, ...]
    others: tuple[tuple[tuple[int, ...], str], ...]  # tokens and text of choices 1 and up


def f32_bits(value: float) -> int:
    packed = struct.pack("<f", value)
    assert struct.unpack("<f", packed)[0] == value, f"{value!r} is no f32"
    return int.from_bytes(packed, "little")


def of_generation(result: Generation) -> Answer:
    def entry(e: Any) -> Entry | None:
        if e is None:
            return None
        return (e.token_id, f32_bits(e.logprob), tuple((i, f32_bits(x)) for i, x in e.top))

    return Answer(tuple(result.prompt_ids), tuple(result.token_ids), result.text,
                  result.finish_reason, result.seed, result.fingerprint,
                  tuple(map(entry, result.logprobs or ())),
                  tuple(map(entry, result.prompt_logprobs or ())),
                  tuple((tuple(c.token_ids), c.text) for c in result.choices[1:]))


def of_json(result: Mapping[str, Any]) -> Answer:
    """From a line of `chatloop-cpud --json`, whose numbers are the f32 ones exactly."""

    def entry(e: Any) -> Entry | None:
        if e is None:
            return None
        return (e["token_id"], f32_bits(e["logprob"]),
                tuple((i, f32_bits(x)) for i, x in e["top"]))

    assert "error" not in result, result
    return Answer(tuple(result["prompt_ids"]), tuple(result["token_ids"]), result["text"],
                  result["finish_reason"], result["seed"], result["fingerprint"],
                  tuple(map(entry, result["logprobs"])),
                  tuple(map(entry, result["prompt_logprobs"])),
                  tuple((tuple(c["token_ids"]), c["text"]) for c in result["others"]))


def ask(client: Client, requests: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """All at once, over one link."""
    streams = [client.stream(**request) for request in requests]
    for stream in streams:
        for _ in stream:
            pass
    return [of_generation(stream.result) for stream in streams]


def ask_cpud(build: Path, model: Path, folder: Path, requests: Sequence[Mapping[str, Any]],
             *options: object) -> list[Answer]:
    """One after another, or with --concurrent all at once."""
    file = folder / "requests.jsonl"
    file.write_text("".join(json.dumps(request) + "\n" for request in requests))
    command = [build / "actors" / "chatloop-cpud", "--model", model, "--requests", file, "--json",
               *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return [of_json(json.loads(line)) for line in done.stdout.splitlines()]
