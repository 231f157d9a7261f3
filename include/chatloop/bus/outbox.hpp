// What an actor may ask of the world around it. Actors know no sockets: real ones (bus/), the
// in-process bus of cpud and the simulator's all stand behind this interface.
//
// Nothing here blocks or fails at the call: a link that goes down and a peer that cannot be reached
// come back as events. Per link, frames arrive in order or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "chatloop/bus/message.hpp"

namespace chatloop {

using LinkId = uint32_t;  // chosen by the actor, never used twice

class Outbox {
public:
    virtual ~Outbox() = default;

    // To a router (by its control endpoint) or to a worker (by its routing id).
    virtual void send_control(const std::string& peer, std::vector<uint8_t> bytes) = 0;
    // Router only: to a client, by its routing id.
    virtual void send_client(const std::string& peer, std::vector<uint8_t> bytes) = 0;

    // A data link to one peer: on_link(id, up) follows when its handshake is finished or it breaks.
    virtual void open_link(LinkId id, const std::string& endpoint) = 0;
    // Drops the link with everything that still waits on it.
    virtual void close_link(LinkId id) = 0;
    // Frames wait while the link is not up; credits bound how many.
    virtual void send_data(LinkId id, Message frame) = 0;
    // Frames that wait on the link.
    virtual size_t backlog(LinkId id) const = 0;
};

}  // namespace chatloop
