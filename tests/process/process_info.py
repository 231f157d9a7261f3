"""What /proc says of a process."""

from __future__ import annotations

import os
from pathlib import Path


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """VmRSS: resident now; VmHWM: at most, since reset_peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no {field}")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """Seconds that it has run on a CPU, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_running(pid: int) -> bool:
    """False for one that ended, whether or not its parent has heard of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def rollup_kib(pid: int, field: str) -> int:
    """Of all its memory together: Rss, Anonymous, AnonHugePages ..."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no {field}")


def thread_cpus(pid: int) -> dict[str, set[int]]:
    """Thread name -> the CPUs that it may run on."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()  # first: libzmq's threads get it last
        found[name] = set(os.sched_getaffinity(int(task.name)))
    return found
