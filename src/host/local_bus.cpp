#include "chatloop/host/local_bus.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop {

class LocalBus::Port final : public Outbox {
public:
    Port(LocalBus& bus, std::string name, Handlers handlers)
        : bus_(bus), name_(std::move(name)), handlers_(std::move(handlers)) {}

    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override {
        bus_.post(bus_.channel(Kind::kControl, name_, peer, 0), Message(std::move(bytes)));
    }
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override {
        bus_.post(bus_.channel(Kind::kFront, name_, peer, 0), Message(std::move(bytes)));
    }
    void open_link(LinkId id, const std::string& endpoint) override {
        CL_ASSERT(!links_.contains(id));
        links_[id] = bus_.channel(Kind::kData, name_, endpoint, id);
        if (bus_.name_of_endpoint_.contains(endpoint))
            bus_.post(bus_.channel(Kind::kLinkUp, name_, name_, id), Message());
    }
    void close_link(LinkId id) override {
        const auto link = links_.find(id);
        CL_ASSERT(link != links_.end());
        bus_.close(link->second);
        links_.erase(link);
    }
    void send_data(LinkId id, Message frame) override {
        const auto link = links_.find(id);
        CL_ASSERT(link != links_.end());
        bus_.post(link->second, std::move(frame));
    }
    size_t backlog(LinkId id) const override {
        const auto link = links_.find(id);
        return link == links_.end() ? 0 : link->second->events.size();
    }

    bool has_link(LinkId id) const { return links_.contains(id); }
    const Handlers& handlers() const { return handlers_; }

private:
    LocalBus& bus_;
    std::string name_;
    Handlers handlers_;
    std::map<LinkId, Channel*> links_;
};

LocalBus::LocalBus() = default;
LocalBus::~LocalBus() = default;

Outbox& LocalBus::attach(const std::string& name, const std::string& endpoint, Handlers handlers) {
    CL_ASSERT(!ports_.contains(name));
    if (!endpoint.empty()) name_of_endpoint_[endpoint] = name;
    auto& port = ports_[name] = std::make_unique<Port>(*this, name, std::move(handlers));
    return *port;
}

void LocalBus::send_front(const std::string& from, const std::string& to,
                          std::vector<uint8_t> bytes) {
    post(channel(Kind::kFront, from, to, 0), Message(std::move(bytes)));
}

LocalBus::Channel* LocalBus::channel(Kind kind, const std::string& from, const std::string& to,
                                     LinkId link) {
    const auto found =
        std::find_if(channels_.begin(), channels_.end(), [&](const auto& c) {
            return !c->closed && c->kind == kind && c->from == from && c->to == to &&
                   c->link == link;
        });
    if (found != channels_.end()) return found->get();
    auto made = std::make_unique<Channel>();
    made->kind = kind;
    made->from = from;
    made->to = to;
    made->link = link;
    return channels_.emplace_back(std::move(made)).get();
}

void LocalBus::post(Channel* channel, Message bytes) {
    if (channel->events.empty()) ready_.push_back(channel);
    channel->events.push_back({std::move(bytes)});
}

// What waits on it goes with it; a channel that waits in ready_ itself, when its turn comes.
void LocalBus::close(Channel* channel) {
    channel->closed = true;
    if (!channel->events.empty()) return;
    std::erase_if(channels_, [channel](const auto& c) { return c.get() == channel; });
}

void LocalBus::deliver(size_t index, TimeUs now) {
    CL_ASSERT(index < ready_.size());
    Channel& channel = *ready_[index];
    ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(index));
    if (channel.closed) {
        channel.events.clear();
        return close(&channel);
    }
    Event event = std::move(channel.events.front());
    channel.events.pop_front();
    if (!channel.events.empty()) ready_.push_back(&channel);

    std::string to = channel.to;
    if (channel.kind == Kind::kData) {
        const auto name = name_of_endpoint_.find(channel.to);
        if (name == name_of_endpoint_.end()) return;
        to = name->second;
    }
    const auto port = ports_.find(to);
    if (port == ports_.end()) return;
    const Handlers& handlers = port->second->handlers();
    switch (channel.kind) {
        case Kind::kControl:
            if (handlers.control) handlers.control(channel.from, std::move(event.bytes), now);
            return;
        case Kind::kFront:
            if (handlers.front) handlers.front(channel.from, std::move(event.bytes), now);
            return;
        case Kind::kData:
            if (handlers.data) handlers.data(std::move(event.bytes), now);
            return;
        case Kind::kLinkUp:
            if (port->second->has_link(channel.link)) handlers.link(channel.link, true, now);
            return;
    }
}

}  // namespace chatloop
