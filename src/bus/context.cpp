#include "chatloop/bus/context.hpp"

#include <sched.h>
#include <zmq.h>

#include <cerrno>

#include "chatloop/core/assert.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

Context::Context(const std::vector<int>& io_cpus) : handle_(zmq_ctx_new()) {
    CL_ASSERT(handle_ != nullptr);
    CL_ASSERT(zmq_ctx_set(handle_, ZMQ_IO_THREADS, 1) == 0);
    CL_ASSERT(zmq_ctx_set(handle_, ZMQ_BLOCKY, 0) == 0);
    CL_ASSERT(zmq_ctx_set(handle_, ZMQ_MAX_SOCKETS, kSocketsMax) == 0);
    for (const int cpu : io_cpus) {
        if (cpu >= CPU_SETSIZE) continue;  // libzmq has a set of fixed size
        CL_ASSERT(zmq_ctx_set(handle_, ZMQ_THREAD_AFFINITY_CPU_ADD, cpu) == 0);
    }
}

Context::~Context() {
    while (zmq_ctx_term(handle_) != 0) CL_ASSERT(zmq_errno() == EINTR);
}

}  // namespace chatloop
