// An in-process bus: the Outbox of actors that share a process (cpud, or a stage with its router).
// Faithful to the real one in what the protocol relies on: per-link FIFO, no order across links.
// Which link delivers next is the caller's choice.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "chatloop/core/clock.hpp"

namespace chatloop {

class LocalBus {
public:
    LocalBus();
    ~LocalBus();

    // How an actor, or a client, hears from the bus. Unused ones stay empty.
    struct Handlers {
        std::function<void(const std::string& from, Message bytes, TimeUs now)> control;
        std::function<void(const std::string& from, Message bytes, TimeUs now)> front;
        std::function<void(Message bytes, TimeUs now)> data;
        std::function<void(LinkId link, bool up, TimeUs now)> link;
    };

    // `name` is the peer's address for control and front messages, `endpoint` for data links.
    // The Outbox lives as long as the bus.
    Outbox& attach(const std::string& name, const std::string& endpoint, Handlers handlers);

    bool has_peer(const std::string& name) const { return ports_.contains(name); }
    bool has_endpoint(const std::string& endpoint) const {
        return name_of_endpoint_.contains(endpoint);
    }

    // A client's message to the router of that name.
    void send_front(const std::string& from, const std::string& to, std::vector<uint8_t> bytes);

    // Links that have something to deliver, each an index for deliver; in order of what waits
    // longest.
    size_t pending() const { return ready_.size(); }
    void deliver(size_t index, TimeUs now);

private:
    class Port;
    enum class Kind : uint8_t { kControl, kFront, kData, kLinkUp };
    struct Event {
        Message bytes;
    };
    // One FIFO: control or front from one peer to another, or one data link.
    struct Channel {
        Kind kind = Kind::kControl;
        std::string from;
        std::string to;  // name, or endpoint of a data link
        LinkId link = 0;
        std::deque<Event> events;
        bool closed = false;
    };

    Channel* channel(Kind kind, const std::string& from, const std::string& to, LinkId link);
    void post(Channel* channel, Message bytes);
    void close(Channel* channel);

    std::map<std::string, std::unique_ptr<Port>> ports_;       // by name
    std::map<std::string, std::string> name_of_endpoint_;
    std::vector<std::unique_ptr<Channel>> channels_;
    std::deque<Channel*> ready_;  // non-empty channels, each once
};

}  // namespace chatloop
