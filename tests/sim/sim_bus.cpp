#include "sim_bus.hpp"

#include <algorithm>

#include "process.hpp"

namespace chatloop::sim {

namespace {

constexpr TimeUs kReconnectUs = 50 * kMillisecondUs;
constexpr TimeUs kReconnectMaxUs = kSecondUs;
constexpr TimeUs kKeepaliveUs = 11 * kSecondUs;  // until a dead idle peer is noticed
constexpr uint32_t kRetransmitUs = 400'000;      // what waited for a healed path, at most

// Unacknowledged data ends a connection (bus/socket.cpp).
TimeUs unacknowledged_us(Wire wire) {
    return wire == Wire::kControl ? 2 * kSecondUs : 3 * kSecondUs;
}

bool has(uint8_t wires, Wire wire) { return (wires & static_cast<uint8_t>(wire)) != 0; }

}  // namespace

SimBus::ConnectionId SimBus::connect(Process& from, Wire wire, const std::string& endpoint,
                                     const std::string& identity, LinkId link) {
    const ConnectionId id = ++last_id_;
    Connection& connection = connections_[id];
    connection.from = &from;
    connection.boot = from.boot();
    connection.wire = wire;
    connection.endpoint = endpoint;
    connection.identity = identity;
    connection.link = link;
    timeline_.in(random_.below(500), [this, id] { attempt(id); });
    return id;
}

// The peer of a closed connection reads what has left, up to somewhere.
void SimBus::close(ConnectionId id) {
    const SessionPtr session = connections_.at(id).session;
    connections_.erase(id);
    if (session == nullptr) return;
    break_session(session, false);
    session->flow[1].packets.clear();
}

bool SimBus::is_up(ConnectionId id) const { return connections_.at(id).session != nullptr; }

void SimBus::retry(ConnectionId id) {
    Connection& connection = connections_.at(id);
    const TimeUs wait =
        std::min(kReconnectUs << std::min(connection.attempts++, 6u), kReconnectMaxUs);
    timeline_.in(wait + random_.below(kReconnectUs), [this, id] { attempt(id); });
}

void SimBus::attempt(ConnectionId id) {
    const auto found = connections_.find(id);
    if (found == connections_.end() || found->second.session != nullptr) return;
    Connection& connection = found->second;
    const auto target = bound_.find(connection.endpoint);
    if (target == bound_.end()) return retry(id);
    Process& to = *target->second;
    Process& from = *connection.from;
    const bool possible = to.alive() && !to.paused() && !from.paused() &&
                          !blocked(from, to, connection.wire) &&
                          !blocked(to, from, connection.wire);
    if (!possible) return retry(id);
    establish(id, to);
}

SimBus::SessionPtr SimBus::make_session(const Peers& between) {
    auto session = std::make_shared<Session>();
    static_cast<Peers&>(*session) = between;
    for (TimeUs& base : session->base_us) base = 20 + random_.below(300);
    sessions_.push_back(session);
    return session;
}

void SimBus::establish(ConnectionId id, Process& to) {
    Connection& connection = connections_.at(id);
    Peers between;
    between.wire = connection.wire;
    between.side[0] = connection.from;
    between.side[1] = &to;
    between.boot[0] = connection.boot;
    between.boot[1] = to.boot();
    between.identity = connection.identity;
    between.endpoint = connection.endpoint;
    between.connection = id;
    const SessionPtr session = make_session(between);
    connection.session = session;
    connection.attempts = 0;
    ++connection.handshakes;
    if (connection.wire != Wire::kData) {
        SessionPtr& known = peers_[{&to, connection.wire, connection.identity}];
        if (known != nullptr) ++handovers_;  // its old connection is half open
        known = session;
    }
    link_event(connection, true);
    std::deque<Message> waiting = std::move(connection.backlog);
    connection.backlog.clear();
    for (Message& message : waiting) transmit(session, 0, std::move(message));
}

void SimBus::link_event(Connection& connection, bool up) {
    if (connection.wire == Wire::kControl) return;
    TimeUs delay = random_.below(1000);
    if (late_one_in_ > 0 && random_.one_in(late_one_in_)) delay += random_.below(600'000);
    connection.event_due = std::max(connection.event_due, timeline_.now() + delay);
    timeline_.at(connection.event_due,
                 [process = connection.from, boot = connection.boot, link = connection.link, up] {
                     if (!process->alive() || process->boot() != boot) return;
                     Arrival arrival;
                     arrival.kind = Arrival::Kind::kLink;
                     arrival.link = link;
                     arrival.up = up;
                     process->arrive(std::move(arrival));
                 });
}

void SimBus::send(ConnectionId id, Message bytes) {
    Connection& connection = connections_.at(id);
    if (connection.session != nullptr) return transmit(connection.session, 0, std::move(bytes));
    if (connection.wire == Wire::kData) connection.backlog.push_back(std::move(bytes));
}

bool SimBus::reply(Process& from, Wire wire, const std::string& identity, Message bytes) {
    const auto peer = peers_.find({&from, wire, identity});
    if (peer == peers_.end() || peer->second->boot[1] != from.boot()) return false;
    transmit(peer->second, 1, std::move(bytes));
    return true;
}

void SimBus::transmit(const SessionPtr& session, int way, Message bytes) {
    if (session->broken) {  // who bound does not know it yet
        ++lost_;
        return;
    }
    if (session->wire != Wire::kData || !harm_)
        return post(session, way, std::move(bytes));
    const Passing passing{session->side[way], session->side[1 - way], session->wire};
    switch (harm_(passing, bytes)) {
        case Fate::kLose: return;
        case Fate::kDouble: {
            const auto copy = bytes.bytes();
            post(session, way, Message(std::vector<uint8_t>(copy.begin(), copy.end())));
            break;
        }
        case Fate::kPass: break;
    }
    post(session, way, std::move(bytes));
}

void SimBus::post(const SessionPtr& session, int way, Message bytes) {
    Flow& flow = session->flow[way];
    TimeUs due = timeline_.now() + session->base_us[way] + random_.below(200);
    const auto slow = slow_.find({session->side[way], session->side[1 - way]});
    if (slow != slow_.end())
        due += random_.below(static_cast<uint32_t>(slow->second) + 1);
    flow.last_due = std::max(flow.last_due, due);
    flow.packets.push_back({flow.last_due, std::move(bytes)});
    if (session->wire == Wire::kData)
        in_flight_max_ = std::max(in_flight_max_, flow.packets.size());
    if (flow.packets.size() == 1) schedule(session, way);
}

void SimBus::schedule(const SessionPtr& session, int way) {
    timeline_.at(session->flow[way].packets.front().due,
                 [this, session, way] { pump(session, way); });
}

void SimBus::pump(const SessionPtr& session, int way) {
    Flow& flow = session->flow[way];
    if (flow.packets.empty() || flow.packets.front().due > timeline_.now()) return;
    if (blocked(*session, way)) {
        if (flow.stalled) return;
        flow.stalled = true;
        timeline_.in(unacknowledged_us(session->wire), [this, session, way] {
            if (session->flow[way].stalled && session->wire != Wire::kFront)
                break_session(session, false);
        });
        return;
    }
    Arrival arrival;
    arrival.wire = session->wire;
    arrival.bytes = std::move(flow.packets.front().bytes);
    flow.packets.pop_front();
    if (session->broken) ++late_after_break_;
    if (!flow.packets.empty()) schedule(session, way);
    Process& to = *session->side[1 - way];
    if (!to.alive() || to.boot() != session->boot[1 - way]) return;
    if (session->wire != Wire::kData) arrival.peer = way == 0 ? session->identity
                                                              : session->endpoint;
    to.arrive(std::move(arrival));
}

// What is on its way arrives up to some message.
void SimBus::cut(Flow& flow) {
    size_t kept = random_.below(static_cast<uint32_t>(flow.packets.size()) + 1);
    if (flow.stalled && !random_.one_in(4)) kept = 0;
    lost_ += flow.packets.size() - kept;
    while (flow.packets.size() > kept) flow.packets.pop_back();
    if (kept == 0) return;
    if (random_.one_in(4)) {  // it lies in the receiver's host, which comes to it later
        const TimeUs later = random_.below(1'500'000);
        for (Packet& packet : flow.packets) packet.due += later;
    }
}

void SimBus::break_session(const SessionPtr& session, bool quiet) {
    if (session->broken) return;
    session->broken = true;
    for (int way = 0; way < 2; ++way) {
        Flow& flow = session->flow[way];
        cut(flow);
        if (!flow.packets.empty() && !flow.stalled) schedule(session, way);
    }
    Process& bound = *session->side[1];
    const bool unheard = blocked(*session, 0);
    const TimeUs notice = unheard ? kKeepaliveUs : TimeUs{random_.below(5000)};
    if (session->wire != Wire::kData) {
        timeline_.in(notice, [this, session, &bound] {
            const auto peer = peers_.find({&bound, session->wire, session->identity});
            if (peer != peers_.end() && peer->second == session) peers_.erase(peer);
        });
    }
    std::erase(sessions_, session);
    const auto found = connections_.find(session->connection);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    connection.session = nullptr;
    const auto target = bound_.find(connection.endpoint);
    // By those who had the old one: a restarted process would be heard of.
    const bool hidden = quiet && target != bound_.end() && target->second->alive() &&
                        target->second->boot() == session->boot[1] &&
                        !target->second->paused() && !connection.from->paused();
    if (hidden) {  // down and up again before anybody looks
        const SessionPtr renewed = make_session(*session);
        connection.session = renewed;
        ++connection.handshakes;
        if (session->wire != Wire::kData)
            peers_[{&bound, session->wire, session->identity}] = renewed;
        return;
    }
    link_event(connection, false);
    retry(found->first);
}

void SimBus::drop_process(Process& process) {
    std::vector<ConnectionId> own;
    for (const auto& [id, connection] : connections_)
        if (connection.from == &process) own.push_back(id);
    for (const ConnectionId id : own) close(id);
    std::vector<SessionPtr> accepted;
    for (const SessionPtr& session : sessions_)
        if (session->side[1] == &process) accepted.push_back(session);
    for (const SessionPtr& session : accepted) {
        // Where nothing gets through, nobody hears of it before his own data is unacknowledged.
        const bool unheard = blocked(*session, 1);
        const TimeUs notice = unheard ? unacknowledged_us(session->wire)
                                      : TimeUs{random_.below(3000)};
        timeline_.in(notice, [this, session] { break_session(session, false); });
    }
}

void SimBus::reset(Process& a, Process& b, uint8_t wires, bool quiet) {
    std::vector<SessionPtr> between;
    for (const SessionPtr& session : sessions_) {
        const bool is_one = (session->side[0] == &a && session->side[1] == &b) ||
                            (session->side[0] == &b && session->side[1] == &a);
        if (is_one && has(wires, session->wire)) between.push_back(session);
    }
    for (const SessionPtr& session : between) break_session(session, quiet);
}

uint64_t SimBus::block(Process& from, Process& to, uint8_t wires) {
    blocks_[++last_id_] = {&from, &to, wires, timeline_.now()};
    return last_id_;
}

// What waited is sent again, in its order.
void SimBus::unblock(uint64_t block) {
    blocks_.erase(block);
    for (const SessionPtr& session : sessions_) {
        for (int way = 0; way < 2; ++way) {
            Flow& flow = session->flow[way];
            if (!flow.stalled || blocked(*session, way)) continue;
            flow.stalled = false;
            const TimeUs again = timeline_.now() + random_.below(kRetransmitUs);
            for (Packet& packet : flow.packets) packet.due = std::max(packet.due, again);
            flow.last_due = std::max(flow.last_due, again);
            if (!flow.packets.empty()) schedule(session, way);
        }
    }
}

void SimBus::slow(Process& from, Process& to, TimeUs extra_us) {
    if (extra_us == 0) slow_.erase({&from, &to});
    else slow_[{&from, &to}] = extra_us;
}

bool SimBus::blocked(const Process& from, const Process& to, Wire wire) const {
    return std::any_of(blocks_.begin(), blocks_.end(), [&](const auto& entry) {
        const Block& block = entry.second;
        return block.from == &from && block.to == &to && has(block.wires, wire);
    });
}

bool SimBus::blocked(const Session& session, int way) const {
    return blocked(*session.side[way], *session.side[1 - way], session.wire);
}

}  // namespace chatloop::sim
