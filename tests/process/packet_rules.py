"""Packets that a node refuses to take: a rule of nftables in its own network namespace, so that
one direction between two nodes is at fault and the other is not."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator

COMMAND_TIMEOUT_S = 30.0
_serial = itertools.count()


def _nft(namespace: str, *words: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", namespace, "nft", *words], capture_output=True,
                          text=True, timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{done.stderr.strip()}: {words}"
    return done.stdout


class Rule:
    def __init__(self, namespace: str, table: str) -> None:
        self._namespace = namespace
        self._table = table

    def packets(self) -> int:
        """So many were refused by now."""
        listed = json.loads(_nft(self._namespace, "-j", "list", "table", "inet", self._table))
        [rule] = (item["rule"] for item in listed["nftables"] if "rule" in item)
        [counter] = (part["counter"] for part in rule["expr"] if "counter" in part)
        return counter["packets"]


@contextlib.contextmanager
def refused(namespace: str, match: str, verdict: str) -> Iterator[Rule]:
    """What comes in and matches is refused while the block runs. AssertionError where the kernel
    has no nf_tables."""
    table = f"faults-{next(_serial)}"
    _nft(namespace, f"add table inet {table}; "
                    f"add chain inet {table} input {{ type filter hook input priority 0; }}; "
                    f"add rule inet {table} input {match} counter {verdict}")
    try:
        yield Rule(namespace, table)
    finally:
        _nft(namespace, f"delete table inet {table}")


def dropped(namespace: str, source: str) -> contextlib.AbstractContextManager[Rule]:
    return refused(namespace, f"ip saddr {source}", "drop")


def reset(namespace: str, source: str, bytes_min: int = 0, every: int = 1,
          per_second: int = 4) -> contextlib.AbstractContextManager[Rule]:
    """The sender of every so manieth packet of that length or more, but at most so often, hears
    that there is no such connection; its peer still takes it for open. SYN and its answer pass, so
    that another one is made."""
    return refused(namespace, f"ip saddr {source} meta length >= {bytes_min} tcp flags "
                              f"! syn,rst numgen inc mod {every} == {every - 1} limit rate "
                              f"{per_second}/second burst 1 packets", "reject with tcp reset")


@functools.cache
def why_no_nftables() -> str:
    """Empty when rules can be made."""
    if shutil.which("nft") is None:
        return "no nft command (package nftables)"
    name = f"chatloop-{os.getpid()}-nftables"
    try:
        subprocess.run(["ip", "netns", "add", name], capture_output=True, check=True,
                       timeout=COMMAND_TIMEOUT_S)
        with dropped(name, "192.0.2.1"), reset(name, "192.0.2.1"):
            return ""
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return f"no rules of nftables can be made: {str(error).splitlines()[0]}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
