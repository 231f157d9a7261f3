// relay LISTEN NEXT INCARNATION: parse, wire, run.
#include <cstdlib>

#include "actors/common.hpp"
#include "actors/node.hpp"
#include "relay.hpp"

namespace chatloop::actors {

namespace {

constexpr char kActor[] = "relay";

class RelayNode final : public Node {
public:
    RelayNode(Host& host, const std::string& listen, RelayConfig config)
        : Node(host, kActor), in_(host.context(), SocketKind::kPull, SocketUse::kData) {
        bind_or_die(in_, listen);
        relay_ = std::make_unique<Relay>(std::move(config), *this, [](const RelayCounters& c) {
            log_line('i', std::to_string(c.frames_forwarded) + " frames");
        });
        host.loop().add_socket(in_, Priority::kData, [this](TimeUs now, Envelope envelope) {
            relay_->on_data(std::move(envelope.message), now);
        });
    }

    // A relay has data links only.
    void send_control(const std::string&, std::vector<uint8_t>) override {}
    void send_client(const std::string&, std::vector<uint8_t>) override {}

    void on_tick(TimeUs now, TimeUs) override { relay_->on_tick(now); }
    TimeUs next_timer() const override { return relay_->next_timer(); }
    bool has_work() const override { return relay_->has_work(); }
    void run_unit(TimeUs now) override { relay_->run_unit(now); }
    bool finished() const override { return relay_->finished(); }
    void on_terminate(TimeUs now) override { relay_->drain(now); }

private:
    void on_link_change(LinkId id, bool up, TimeUs now) override { relay_->on_link(id, up, now); }

    Socket in_;
    std::unique_ptr<Relay> relay_;
};

}  // namespace

}  // namespace chatloop::actors

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    block_signals();
    RelayConfig config;
    if (argc == 4) config.next = std::strtoull(argv[3], nullptr, 16);
    if (config.next == 0)
        die(kActor, {ErrorCode::kInvalidRequest, "usage: relay LISTEN NEXT NEXT'S-INCARNATION"});
    config.next_endpoint = argv[2];
    die_with_parent();
    Host host;
    RelayNode node(host, argv[1], std::move(config));
    start_log(kActor, "info");
    host.run();
    return kDrained;
}
