// The network between simulated processes, as libzmq over TCP shows it to them: a connection keeps
// its order, connections have none among each other; what is in flight when one breaks is lost
// from some message on; nothing queues in the socket for a peer that is not connected; a ROUTER
// knows its peers by the identity of their latest connection.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "chatloop/bus/outbox.hpp"
#include "random.hpp"
#include "timeline.hpp"

namespace chatloop::sim {

class Process;

enum class Wire : uint8_t { kControl = 1, kFront = 2, kData = 4 };
inline constexpr uint8_t kAllWires = 7;

// What a process finds in its sockets.
struct Arrival {
    enum class Kind : uint8_t { kMessage, kLink };
    Kind kind = Kind::kMessage;
    Wire wire = Wire::kData;
    std::string peer;  // routing id, or the endpoint of a router; empty for data
    LinkId link = 0;
    bool up = false;
    Message bytes;
};

// A frame that is about to leave, for whoever wants to harm it.
struct Passing {
    Process* from = nullptr;
    Process* to = nullptr;
    Wire wire = Wire::kData;
};
enum class Fate : uint8_t { kPass, kLose, kDouble };

class SimBus {
public:
    using ConnectionId = uint64_t;

    SimBus(Timeline& timeline, Random& random) : timeline_(timeline), random_(random) {}

    void bind(Process& process, const std::string& endpoint) { bound_[endpoint] = &process; }
    ConnectionId connect(Process& from, Wire wire, const std::string& endpoint,
                         const std::string& identity, LinkId link);
    void close(ConnectionId id);
    bool is_up(ConnectionId id) const;
    uint32_t handshakes(ConnectionId id) const { return connections_.at(id).handshakes; }
    size_t backlog(ConnectionId id) const { return connections_.at(id).backlog.size(); }
    // From the side that connected. Data waits for the connection; the rest is lost without it.
    void send(ConnectionId id, Message bytes);
    // From the side that bound. False: no peer of that identity is connected.
    bool reply(Process& from, Wire wire, const std::string& identity, Message bytes);

    // Faults. `quiet` hides from the link's owner that it was down.
    void drop_process(Process& process);
    void reset(Process& a, Process& b, uint8_t wires, bool quiet);
    uint64_t block(Process& from, Process& to, uint8_t wires);  // nothing gets through
    void unblock(uint64_t block);
    void slow(Process& from, Process& to, TimeUs extra_us);  // until it is 0
    // How likely link events come late, in 1 of so many; 0 never.
    void set_late_events(uint32_t one_in) { late_one_in_ = one_in; }
    // Looks at every data frame as it leaves.
    void set_harm(std::function<Fate(const Passing&, Message&)> harm) { harm_ = std::move(harm); }

    size_t in_flight_max() const { return in_flight_max_; }  // of one connection, ever
    uint64_t lost() const { return lost_; }                  // messages that were in flight
    uint64_t late_after_break() const { return late_after_break_; }
    uint64_t handovers() const { return handovers_; }

private:
    struct Packet {
        TimeUs due = 0;
        Message bytes;
    };
    struct Flow {
        std::deque<Packet> packets;
        TimeUs last_due = 0;
        bool stalled = false;
    };
    struct Peers {
        Wire wire = Wire::kData;
        Process* side[2] = {};  // who connected, who bound
        uint32_t boot[2] = {};
        std::string identity;
        std::string endpoint;
        ConnectionId connection = 0;
    };
    // One TCP connection from its handshake on.
    struct Session : Peers {
        Flow flow[2];  // 0: from who connected
        bool broken = false;
        TimeUs base_us[2] = {};
    };
    using SessionPtr = std::shared_ptr<Session>;
    struct Connection {
        Process* from = nullptr;
        uint32_t boot = 0;
        Wire wire = Wire::kData;
        std::string endpoint;
        std::string identity;
        LinkId link = 0;
        SessionPtr session;
        std::deque<Message> backlog;
        uint32_t attempts = 0;
        uint32_t handshakes = 0;
        TimeUs event_due = 0;
    };
    struct Block {
        Process* from = nullptr;
        Process* to = nullptr;
        uint8_t wires = 0;
        TimeUs since = 0;
    };

    void attempt(ConnectionId id);
    void retry(ConnectionId id);
    SessionPtr make_session(const Peers& between);
    void establish(ConnectionId id, Process& to);
    void transmit(const SessionPtr& session, int way, Message bytes);
    void post(const SessionPtr& session, int way, Message bytes);
    void schedule(const SessionPtr& session, int way);
    void pump(const SessionPtr& session, int way);
    void cut(Flow& flow);
    void break_session(const SessionPtr& session, bool quiet);
    void link_event(Connection& connection, bool up);
    bool blocked(const Process& from, const Process& to, Wire wire) const;
    bool blocked(const Session& session, int way) const;

    Timeline& timeline_;
    Random& random_;
    std::map<std::string, Process*> bound_;
    std::map<ConnectionId, Connection> connections_;
    std::vector<SessionPtr> sessions_;
    std::map<std::tuple<Process*, Wire, std::string>, SessionPtr> peers_;
    std::map<uint64_t, Block> blocks_;
    std::map<std::pair<const Process*, const Process*>, TimeUs> slow_;
    std::function<Fate(const Passing&, Message&)> harm_;
    uint64_t last_id_ = 0;
    uint32_t late_one_in_ = 0;
    size_t in_flight_max_ = 0;
    uint64_t lost_ = 0;
    uint64_t late_after_break_ = 0;
    uint64_t handovers_ = 0;
};

}  // namespace chatloop::sim
