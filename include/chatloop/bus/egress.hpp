// Messages to the peers of a ROUTER socket. What a peer's queue in the socket does not take waits
// here, in order, and is tried again on a timer: a ROUTER cannot be polled for one peer.
//
// A peer that cannot be reached, that takes nothing for too long, or for which too much waits is
// gone: all that waits for it is dropped, and it is named by take_gone. Until then nothing more is
// sent to it, so that what it gets has no gap before the owner knows.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "chatloop/bus/socket.hpp"
#include "chatloop/core/clock.hpp"
#include "chatloop/core/limits.hpp"

namespace chatloop {

struct EgressLimits {
    size_t peer_bytes = kEgressPeerBytesMax;
    size_t bytes = kEgressBytesMax;  // of all peers; beyond it the longest without progress is gone
    TimeUs stall_us = kEgressStallUs;
};

class Egress {
public:
    // Socket::send_to, but for tests.
    using TrySend = std::function<Io(const std::string& peer, Message& message)>;

    explicit Egress(TrySend try_send, const EgressLimits& limits = {});

    void send(const std::string& peer, Message message, TimeUs now);
    void on_timer(TimeUs now);
    TimeUs next_timer() const { return retry_at_; }

    bool has_gone() const { return !gone_.empty(); }
    std::set<std::string> take_gone();

    size_t bytes() const { return bytes_; }  // that wait, with kEgressMessageBytes for each message
    uint64_t peers_dropped() const { return peers_dropped_; }  // with what waited for them
    uint64_t messages_dropped() const { return messages_dropped_; }

private:
    struct Backlog {
        std::deque<Message> messages;
        size_t bytes = 0;
        TimeUs progress_at = 0;
        TimeUs retry_at = 0;
        TimeUs pause_us = 0;  // doubles while the peer takes nothing
    };
    using Backlogs = std::map<std::string, Backlog>;

    Backlogs::iterator flush(Backlogs::iterator entry, TimeUs now);
    Backlogs::iterator drop(Backlogs::iterator entry);
    Backlogs::iterator most_stalled();

    TrySend try_send_;
    EgressLimits limits_;
    Backlogs backlogs_;
    std::set<std::string> gone_;
    size_t bytes_ = 0;
    TimeUs retry_at_ = kNever;
    uint64_t peers_dropped_ = 0;
    uint64_t messages_dropped_ = 0;
};

}  // namespace chatloop
