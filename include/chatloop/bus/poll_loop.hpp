// The one loop of a process. A turn: control messages, link changes and timers, descriptors, the
// handler's timers, data frames, queued frames out, then ONE unit of work. It waits only when no
// work is queued, and then until the next timer.
//
// Sockets, links and descriptors may be added and removed from every handler, also by the one that
// is running; what was removed is not called again and may be destroyed at once.
#pragma once

#include <functional>
#include <memory>

#include "chatloop/bus/link.hpp"
#include "chatloop/bus/socket.hpp"
#include "chatloop/core/clock.hpp"

namespace chatloop {

struct LoopHandler {
    virtual ~LoopHandler() = default;

    virtual void on_tick(TimeUs now) = 0;  // every turn
    virtual TimeUs next_timer() const = 0;
    virtual bool has_work() const = 0;
    virtual void run_unit(TimeUs now) = 0;
    virtual bool finished() const = 0;
};

enum class Priority : uint8_t { kControl, kData };

class PollLoop {
public:
    using OnMessage = std::function<void(TimeUs, Envelope)>;
    using OnLink = std::function<void(TimeUs, bool up)>;
    using OnReadable = std::function<void(TimeUs)>;

    PollLoop();
    ~PollLoop();
    PollLoop(const PollLoop&) = delete;
    PollLoop& operator=(const PollLoop&) = delete;

    void add_socket(Socket& socket, Priority priority, OnMessage on_message);
    void add_link(Link& link, OnLink on_link);
    void add_fd(int fd, OnReadable on_readable);
    void remove_socket(Socket& socket);
    void remove_link(Link& link);
    void remove_fd(int fd);

    void run(LoopHandler& handler);

    // The longest time for which the loop looked at no socket, since the last call: a long unit, or
    // a process that was stopped.
    TimeUs take_loop_gap();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace chatloop
