"""The functions of the libzmq that pyzmq has loaded, without what pyzmq does around them: it calls
again after EINTR, and often holds the interpreter's lock meanwhile."""

import ctypes

import zmq
from zmq.backend.cython import _zmq


class PollItem(ctypes.Structure):
    _fields_ = [("socket", ctypes.c_void_p), ("fd", ctypes.c_int), ("events", ctypes.c_short),
                ("revents", ctypes.c_short)]


def bare_libzmq() -> ctypes.CDLL:
    """For sockets of pyzmq by their `underlying`."""
    library = ctypes.CDLL(_zmq.__file__)  # and what it is linked with
    library.zmq_send.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    library.zmq_recv.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.zmq_poll.argtypes = [ctypes.POINTER(PollItem), ctypes.c_int, ctypes.c_long]
    return library

