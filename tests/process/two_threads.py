"""Two threads send on one ROUTER socket of plain libzmq, without a lock: it aborts the process.
Ends with 0 when it has borne that for a minute."""

import ctypes
import os
import resource
import sys
import threading
import time

import zmq

sys.path.insert(0, os.path.dirname(__file__))
from bare_libzmq import bare_libzmq  # noqa: E402

BORNE_S = 60.0

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
library = bare_libzmq()
context = zmq.Context()
router = context.socket(zmq.ROUTER)
router.bind("inproc://shared")
handle = ctypes.c_void_p(router.underlying)


def read(dealer: zmq.Socket) -> None:
    while True:
        dealer.recv()


def send(peer: bytes) -> None:
    while True:
        library.zmq_send(handle, peer, len(peer), zmq.SNDMORE | zmq.DONTWAIT)
        library.zmq_send(handle, b"", 0, zmq.DONTWAIT)


PEERS = (b"a", b"b")
for name in PEERS:
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.ROUTING_ID, name)
    peer.connect("inproc://shared")
    peer.send(b"")
    router.recv_multipart()  # from here on it can be addressed
    threading.Thread(target=read, args=(peer,), daemon=True).start()
for name in PEERS:
    threading.Thread(target=send, args=(name,), daemon=True).start()
time.sleep(BORNE_S)
os._exit(0)
