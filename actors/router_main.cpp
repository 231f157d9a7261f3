// chatloop-router: parse, wire, run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "chatloop/bus/egress.hpp"
#include "chatloop/router/router.hpp"
#include "chatloop/text/text.hpp"
#include "command_line.hpp"
#include "common.hpp"
#include "node.hpp"

namespace chatloop::actors {

namespace {

constexpr char kActor[] = "chatloop-router";
constexpr TimeUs kFarewellUs = 500 * kMillisecondUs;

struct Options {
    std::string model;
    std::string name;
    std::string ctrl;
    std::string front;
    std::string result;
    std::string endpoints_file;
    kernel::KvType kv_type = kernel::KvType::kF16;
    uint32_t max_batch_size = 0;
    uint32_t prefill_rows = 0;
    uint32_t frames_in_flight = 0;
    uint32_t max_queue_size = 0;
    uint32_t heartbeat_interval_ms = 0;
    uint32_t failure_threshold = 0;
    TimeUs client_silence_us = 0;
    TimeUs drain_timeout_us = 0;
    std::vector<int> io_cpus;  // of libzmq's threads
};

Result<Options> router_options(const Settings& settings) {
    const auto count = [&](const char* path) {
        return static_cast<uint32_t>(settings.integer(path));
    };
    Options options;
    Result<std::string> model = settings.required("model.path");
    if (!model) return model.error();
    options.model = std::move(*model);
    options.name = settings.text("router.router_id");
    options.ctrl = settings.text("bus.ctrl");
    options.front = settings.text("bus.front");
    options.result = settings.text("bus.result");
    options.kv_type = kv_type(settings.text("performance.kv_cache_dtype"));
    options.max_batch_size = count("batching.max_batch_size");
    options.prefill_rows = count("batching.prefill_rows");
    options.frames_in_flight = count("batching.frames_in_flight");
    options.max_queue_size = count("batching.max_queue_size");
    options.client_silence_us = settings.seconds("bus.client_silence_secs");
    options.heartbeat_interval_ms = static_cast<uint32_t>(
        settings.seconds("health_check_interval_secs") / kMillisecondUs);
    options.failure_threshold = count("failure_threshold");
    options.drain_timeout_us = settings.seconds("drain_timeout_secs");
    return options;
}

class RouterNode final : public Node {
public:
    RouterNode(const Options& options, const ModelSpec& spec, const TextEngine& text)
        : Node(kActor, options.io_cpus),
          ctrl_(context_, SocketKind::kRouter, SocketUse::kControl),
          front_(context_, SocketKind::kRouter, SocketUse::kFront),
          result_(context_, SocketKind::kPull, SocketUse::kData) {
        bind_or_die(ctrl_, options.ctrl);
        bind_or_die(front_, options.front);
        bind_or_die(result_, options.result);
        RouterConfig config = router_config(spec, options.kv_type);
        config.seed = random_u64();
        config.max_batch_size = options.max_batch_size;
        config.prefill_rows = options.prefill_rows;
        config.frames_in_flight = options.frames_in_flight;
        config.max_queue_size = options.max_queue_size;
        config.client_silence_us = options.client_silence_us;
        config.drain_timeout_us = options.drain_timeout_us;
        drain_timeout_us_ = config.drain_timeout_us;
        config.cluster.name = options.name;
        config.cluster.incarnation = random_u64();
        config.cluster.result_endpoint = connectable(kActor, result_);
        config.cluster.heartbeat_interval_ms = options.heartbeat_interval_ms;
        config.cluster.failure_threshold = options.failure_threshold;
        router_ = std::make_unique<Router>(config, *this, text, log_line);
        wire();
        write_endpoints(options.endpoints_file);
    }

    int run() {
        log_line('i', "listening: ctrl " + ctrl_.last_endpoint() + ", front " +
                          front_.last_endpoint() + ", result " + result_.last_endpoint());
        loop_.run(*this);
        log_line('i', "drained");
        return kDrained;
    }

    // Outbox. A peer that cannot be reached is told to the router at the next tick, not in the
    // middle of what it is doing.
    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override {
        Message message(std::move(bytes));
        if (ctrl_.send_to(peer, message) == Io::kUnreachable) workers_gone_.insert(peer);
    }
    void send_client(const std::string& peer, std::vector<uint8_t> bytes) override {
        const TimeUs now = monotonic_now();
        if (!router_->finished()) spoke_at_ = now;  // a PONG after that is no last word
        egress_.send(peer, Message(std::move(bytes)), now);
    }

    // LoopHandler.
    void on_tick(TimeUs now) override {
        if (egress_.bytes() > 0) spoke_at_ = now;
        egress_.on_timer(now);
        for (const std::string& peer : egress_.take_gone()) router_->on_client_gone(peer, now);
        for (const std::string& peer : std::exchange(workers_gone_, {}))
            router_->on_worker_gone(peer, now);
        note_sockets();
        router_->on_tick(now);
        ticked_at_ = now;
        loop_.take_loop_gap();
    }
    TimeUs next_timer() const override {
        if (egress_.has_gone() || !workers_gone_.empty()) return 0;
        return std::min({router_->next_timer(), egress_.next_timer(), leaves_at()});
    }
    bool has_work() const override { return router_->has_work(); }
    void run_unit(TimeUs now) override { router_->run_unit(now); }
    bool finished() const override {
        return ticked_at_ >= leaves_at() || (at_once_ && router_->finished());
    }

private:
    // A connection that is closed while its client speaks (a PING) is reset, and what the client
    // has not read yet is lost: so clients get a moment to take what was said last, and those that
    // read slowly the rest of the drain's time before it. kNever until the router has finished.
    TimeUs leaves_at() const {
        if (!router_->finished()) return kNever;
        return (egress_.bytes() == 0 ? spoke_at_ : drain_until_) + kFarewellUs;
    }

    void wire() {
        loop_.add_socket(ctrl_, Priority::kControl, [this](TimeUs now, Envelope envelope) {
            router_->on_control(envelope.peer, envelope.message.bytes(), now);
        });
        loop_.add_socket(front_, Priority::kData, [this](TimeUs now, Envelope envelope) {
            router_->on_client(envelope.peer, envelope.message.bytes(), now);
        });
        loop_.add_socket(result_, Priority::kData, [this](TimeUs now, Envelope envelope) {
            router_->on_result(std::move(envelope.message), now);
        });
    }

    void note_sockets() {
        router_->note_sockets({front_.malformed(), ctrl_.malformed(), result_.malformed(),
                               egress_.peers_dropped(), egress_.messages_dropped(),
                               egress_.bytes()});
    }

    void write_endpoints(const std::string& file) const {
        if (file.empty()) return;
        const nlohmann::json endpoints = {{"ctrl", ctrl_.last_endpoint()},
                                          {"front", front_.last_endpoint()},
                                          {"result", result_.last_endpoint()}};
        const std::string part = file + ".part";
        std::ofstream(part) << endpoints.dump() << "\n";
        if (std::rename(part.c_str(), file.c_str()) != 0)
            die(kActor, {ErrorCode::kBadFile, "--endpoints-file " + file + " cannot be written"});
    }

    void on_link_change(LinkId id, bool up, TimeUs now) override { router_->on_link(id, up, now); }
    void on_terminate(TimeUs now) override {
        at_once_ = drain_until_ != kNever;  // a second one
        drain_until_ = now + drain_timeout_us_;
        router_->drain(now);
    }

    Socket ctrl_;
    Socket front_;
    Socket result_;
    std::unique_ptr<Router> router_;
    Egress egress_{[this](const std::string& peer, Message& message) {
        return front_.send_to(peer, message);
    }};
    std::set<std::string> workers_gone_;
    TimeUs drain_timeout_us_ = 0;
    TimeUs drain_until_ = kNever;
    TimeUs spoke_at_ = -kFarewellUs;  // what was said of a request last left the egress
    TimeUs ticked_at_ = 0;
    bool at_once_ = false;
};

// Prints one line and ends.
int check_router(const Options& options, const ModelSpec& spec) {
    for (const std::string& endpoint : {options.ctrl, options.front, options.result})
        value_or_die(kActor, check_endpoint(endpoint, EndpointUse::kBind));
    value_or_die(kActor, check_connectable(options.result));
    std::printf("%s: all is well: %s for %s, front at %s\n", kActor, options.name.c_str(),
                spec.model_name.c_str(), options.front.c_str());
    return kDrained;
}

}  // namespace

}  // namespace chatloop::actors

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    block_signals();  // one that comes during the set-up drains as soon as the loop runs
    CLI::App app("ChatLoop's router: requests in, tokens out", kActor);
    CommandLine command_line(app, kRouterRole);
    std::string endpoints_file;
    app.add_option("--endpoints-file", endpoints_file,
                   "write the bound endpoints there as JSON");
    const Settings settings = command_line.parse_or_exit(kActor, argc, argv);
    Options options = value_or_die(kActor, router_options(settings));
    options.endpoints_file = endpoints_file;
    options.io_cpus = value_or_die(kActor, place_process(settings));
    die_with_parent();
    report_lost_pages(kActor, kConfig);
    value_or_die(kActor, choose_kernels("auto"));  // the same CPU and build checks as a worker's
    const ModelSpec spec = value_or_die(kActor, read_spec(options.model));
    const auto text = value_or_die(kActor, open_text(options.model, spec));
    if (command_line.check()) {
        print_warnings(kActor, setting_warnings(settings));
        return check_router(options, spec);
    }
    start_log(kActor, settings.text("observability.log_level"));
    for (const std::string& warning : setting_warnings(settings)) log_line('w', warning);
    return RouterNode(options, spec, *text).run();
}
