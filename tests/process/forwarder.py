"""A network whose packets are lost, late, or overtake each other: what the kernel's netem does
where there is one. For tests only.

Each node is a network namespace with a TUN device, and the other end of every device is here:
one thread takes an IP packet out of one and puts it into another, or does not. Below TCP, so TCP
does its work as on a bad line.

    with BadNetwork(["192.0.2.1", "192.0.2.2"]) as network:
        with network.faults(Faults(loss=0.02)):
            ...
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nodes import Network, run

TUNSETIFF = 0x400454CA
IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
CLONE_NEWNET = 0x40000000
PACKET_BYTES_MAX = 65536
WAITING_MAX = 20_000  # packets; what comes then is dropped, as a router does whose queue is full
PACKETS_A_TURN = 64


@dataclass(frozen=True)
class Faults:
    """Of one direction. Delay and jitter alone keep the order."""

    loss: float = 0.0  # share of the packets
    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # up to so much more
    overtaking: float = 0.0  # share that is sent on without delay, before those that wait


NONE = Faults()
ALL_LOST = Faults(loss=1.0)


@contextlib.contextmanager
def enter_namespace(name: str) -> Iterator[None]:
    """The calling thread is in that network namespace meanwhile, and so are the threads and
    processes that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with open(path, "rb") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {path}")

    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(f"/var/run/netns/{name}")
        yield
    finally:
        enter(f"/proc/self/fd/{before}")
        os.close(before)


def open_tun(namespace: str) -> int:
    """A device eth0 in that namespace; its descriptor works from everywhere."""
    with enter_namespace(namespace):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN_WITHOUT_HEADER))
        return tun


class Forwarder:
    """Takes the descriptors over. `counts`: passed, lost, late, overtaking, dropped."""

    def __init__(self, tuns: dict[str, int], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: dict[tuple[str, str], Faults] = {}  # (source, destination); replaced whole
        self._tuns = tuns
        self._name_of = {socket.inet_aton(address): address for address in tuns}
        self._dice = random.Random(seed)
        # (due, number, destination, packet): the number keeps those in order that are due at once.
        self._waiting: list[tuple[float, int, str, bytes]] = []
        self._last_due: dict[tuple[str, str], float] = {}
        self._number = 0
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._waker)
        self._thread.join()
        for descriptor in (self._wake, *self._tuns.values()):
            os.close(descriptor)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for address, tun in self._tuns.items():
                selector.register(tun, selectors.EVENT_READ, address)
            while True:
                wait_s = max(self._waiting[0][0] - time.monotonic(), 0) if self._waiting else None
                for key, _ in selector.select(wait_s):
                    if key.data is None:
                        return
                    self._take(key.fd, key.data)
                self._send_due()

    def _take(self, tun: int, source: str) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(tun, PACKET_BYTES_MAX)
            except OSError:  # nothing more, or its interface is down
                return
            # Of IPv4 only: that is all that the tests speak.
            destination = self._name_of.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if destination is not None:
                self._judge(source, destination, packet)

    def _judge(self, source: str, destination: str, packet: bytes) -> None:
        edge = (source, destination)
        faults = self.faults.get(edge, NONE)
        now = time.monotonic()
        if self._dice.random() < faults.loss:
            self.counts["lost"] += 1
        elif len(self._waiting) >= WAITING_MAX:
            self.counts["dropped"] += 1
        elif self._dice.random() < faults.overtaking:
            self.counts["overtaking"] += self._last_due.get(edge, 0.0) > now
            self._wait(now, destination, packet)
        else:
            late_ms = faults.delay_ms + self._dice.random() * faults.jitter_ms
            self.counts["late"] += late_ms > 0
            due = max(now + late_ms / 1000, self._last_due.get(edge, 0.0))
            self._last_due[edge] = due
            self._wait(due, destination, packet)

    def _wait(self, due: float, destination: str, packet: bytes) -> None:
        self._number += 1
        heapq.heappush(self._waiting, (due, self._number, destination, packet))

    def _send_due(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, destination, packet = heapq.heappop(self._waiting)
            try:
                os.write(self._tuns[destination], packet)
                self.counts["passed"] += 1
            except OSError:  # its interface is down
                self.counts["dropped"] += 1


class BadNetwork(Network):
    """As Network; the switch is the Forwarder."""

    def __init__(self, addresses: Sequence[str], seed: int = 1) -> None:
        super().__init__(addresses)
        self._seed = seed
        self.forwarder: Forwarder | None = None

    def __enter__(self) -> BadNetwork:
        tuns: dict[str, int] = {}
        try:
            for address, name in self._names.items():
                run("ip", "netns", "add", name)
                tuns[address] = open_tun(name)
                for line in ("link set lo up", f"addr add {address}/24 dev eth0",
                             "link set eth0 up"):
                    run("ip", "-n", name, *line.split())
        except BaseException:
            for tun in tuns.values():
                os.close(tun)
            super().__exit__()
            raise
        self.forwarder = Forwarder(tuns, self._seed)
        return self

    def __exit__(self, *_: object) -> None:
        if self.forwarder is not None:
            self.forwarder.close()
        super().__exit__()

    @property
    def counts(self) -> Counter[str]:
        return self.forwarder.counts

    @contextlib.contextmanager
    def faults(self, faults: Faults, edges: Sequence[tuple[str, str]] = ()) -> Iterator[None]:
        """On these directed edges, or on all."""
        everyone = [(a, b) for a in self._names for b in self._names if a != b]
        self.forwarder.faults = dict.fromkeys(edges or everyone, faults)
        try:
            yield
        finally:
            self.forwarder.faults = {}

    @contextlib.contextmanager
    def rate(self, kbit: int, latency_ms: int) -> Iterator[None]:
        """What every node sends leaves at that rate; what waits longer is dropped. By the kernel's
        tbf; AssertionError where it has none."""
        for name in self._names.values():
            run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate",
                f"{kbit}kbit", "burst", "16kb", "latency", f"{latency_ms}ms")
        try:
            yield
        finally:
            for name in self._names.values():
                run("tc", "-n", name, "qdisc", "del", "dev", "eth0", "root")
