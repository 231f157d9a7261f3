// The ZeroMQ context of a process: one I/O thread and the reaper beside the application thread.
#pragma once

#include <cstdint>
#include <vector>

namespace chatloop {

class Context {
public:
    // Block signals before (system.hpp, SignalFd). The threads of ZeroMQ run on `io_cpus`; empty:
    // where this thread does.
    explicit Context(const std::vector<int>& io_cpus = {});
    // Every socket must be closed by then.
    ~Context();
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    void* handle() const { return handle_; }
    uint64_t next_id() { return ++last_id_; }

private:
    void* handle_;
    uint64_t last_id_ = 0;
};

}  // namespace chatloop
