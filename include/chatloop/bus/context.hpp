// The ZeroMQ context of a process: one I/O thread and the reaper beside the application thread.
#pragma once

#include <cstdint>
#include <optional>

namespace chatloop {

class Context {
public:
    // Block signals before (system.hpp, SignalFd). `io_cpu` pins the threads of ZeroMQ to one CPU.
    explicit Context(std::optional<int> io_cpu = std::nullopt);
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
