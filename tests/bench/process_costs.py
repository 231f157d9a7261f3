"""What a process costs besides its time: memory, switches, cache misses, its CPU at rest."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_TIMEOUT_S = 1800.0  # of one benchmark program


@contextlib.contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """This process and what it starts meanwhile may use these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Outcome:
    """A program that ran to its end."""

    stdout: str
    stderr: str
    peak_rss_mib: float
    switches: int  # voluntary and involuntary, all threads
    cache_misses: int | None  # None: the kernel does not count them


def run_program(command: Sequence[object], cores: Iterable[int]) -> Outcome:
    """In a folder of its own (some write logs), so paths are absolute ones. Raises RuntimeError
    with the program's last words when it fails."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, \
            tempfile.TemporaryDirectory() as folder:
        with on_cores(cores), CacheMisses() as misses:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                       cwd=folder)
            watchdog = threading.Timer(RUN_TIMEOUT_S, process.kill)
            watchdog.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                watchdog.cancel()
                if process.returncode is None:
                    process.kill()
                    process.wait()
        out.seek(0)
        err.seek(0)
        said, complained = out.read(), err.read()
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n"
                               f"{(said + complained)[-2000:]}")
    return Outcome(said, complained, usage.ru_maxrss / 1024,
                   usage.ru_nvcsw + usage.ru_nivcsw, misses.count)


class CacheMisses:
    """Counts last-level cache misses of what is started within the block and has ended in it."""

    SYSCALL = 298  # perf_event_open on x86-64
    INHERIT, EXCLUDE_KERNEL, EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6
    HARDWARE, MISSES = 0, 3

    def __init__(self) -> None:
        self.count: int | None = None
        self._fd = -1

    def __enter__(self) -> CacheMisses:
        flags = self.INHERIT | self.EXCLUDE_KERNEL | self.EXCLUDE_HV
        attr = struct.pack("=IIQQQQQIIQ", self.HARDWARE, 64, self.MISSES, 0, 0, 0, flags, 0, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.syscall(self.SYSCALL, attr, 0, -1, -1, 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self.count = int.from_bytes(os.read(self._fd, 8), "little")
            os.close(self._fd)


def switches_of(pid: int) -> int:
    """Voluntary and involuntary context switches of all threads since they started."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        total += sum(int(line.split()[1]) for line in status.read_text().splitlines()
                     if "ctxt_switches" in line)
    return total


def cpu_ns_of(pid: int) -> int:
    """Time on a CPU of all threads since they started."""
    return sum(int(path.read_text().split()[0])
               for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def memory_mib_of(pid: int) -> dict[str, float]:
    """Rss, Pss and their parts (Pss_Anon, Pss_File, ...)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value) / 1024
    return found
