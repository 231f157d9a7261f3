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
#include "common.hpp"
#include "node.hpp"

namespace chatloop::actors {

namespace {

constexpr char kActor[] = "chatloop-router";
constexpr TimeUs kFarewellUs = 500 * kMillisecondUs;

struct Options {
    std::string model;
    std::string name = "router-0";
    std::string ctrl = "tcp://127.0.0.1:7100";
    std::string front = "tcp://127.0.0.1:7101";
    std::string result = "tcp://127.0.0.1:7102";
    std::string endpoints_file;
    uint32_t max_batch_size = 32;
    uint32_t prefill_rows = 64;
    uint32_t max_queue_size = 512;
    uint32_t heartbeat_interval_ms = 200;
    uint32_t failure_threshold = 25;
    uint32_t client_silence_secs = 30;
    uint32_t drain_timeout_secs = 30;
    std::string log_level = "info";
};

class RouterNode final : public Node {
public:
    RouterNode(const Options& options, const ModelSpec& spec, const TextEngine& text)
        : Node(kActor),
          ctrl_(context_, SocketKind::kRouter, SocketUse::kControl),
          front_(context_, SocketKind::kRouter, SocketUse::kFront),
          result_(context_, SocketKind::kPull, SocketUse::kData) {
        bind_or_die(ctrl_, options.ctrl);
        bind_or_die(front_, options.front);
        bind_or_die(result_, options.result);
        RouterConfig config = router_config(spec);
        config.seed = random_u64();
        config.max_batch_size = options.max_batch_size;
        config.prefill_rows = options.prefill_rows;
        config.max_queue_size = options.max_queue_size;
        config.client_silence_us = options.client_silence_secs * kSecondUs;
        config.drain_timeout_us = options.drain_timeout_secs * kSecondUs;
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
        spoke_at_ = monotonic_now();
        egress_.send(peer, Message(std::move(bytes)), spoke_at_);
    }

    // LoopHandler.
    void on_tick(TimeUs now) override {
        egress_.on_timer(now);
        for (const std::string& peer : egress_.take_gone()) router_->on_client_gone(peer, now);
        for (const std::string& peer : std::exchange(workers_gone_, {}))
            router_->on_worker_gone(peer, now);
        note_sockets();
        router_->on_tick(now);
        ticked_at_ = now;
        if (router_->finished() && farewell_until_ == kNever)
            farewell_until_ = spoke_at_ + kFarewellUs;
        loop_.take_loop_gap();
    }
    TimeUs next_timer() const override {
        if (egress_.has_gone() || !workers_gone_.empty()) return 0;
        return std::min({router_->next_timer(), egress_.next_timer(), farewell_until_});
    }
    bool has_work() const override { return router_->has_work(); }
    void run_unit(TimeUs now) override { router_->run_unit(now); }
    // A connection that is closed while its client speaks (a PING) is reset, and what the client
    // has not read yet is lost: so clients get a moment to take what was said last, and those that
    // read slowly the rest of the drain's time.
    bool finished() const override {
        if (!router_->finished()) return false;
        const bool taken = egress_.bytes() == 0 || ticked_at_ >= leave_at_;
        return at_once_ || (taken && ticked_at_ >= farewell_until_);
    }

private:
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
        at_once_ = leave_at_ != kNever;  // a second one
        leave_at_ = now + drain_timeout_us_;
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
    TimeUs leave_at_ = kNever;
    TimeUs farewell_until_ = kNever;
    TimeUs spoke_at_ = -kFarewellUs;
    TimeUs ticked_at_ = 0;
    bool at_once_ = false;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("--model", options.model, "model directory")->required();
    app.add_option("--name", options.name, "this router's name");
    app.add_option("--ctrl", options.ctrl, "bind: control of the workers");
    app.add_option("--front", options.front, "bind: clients");
    app.add_option("--result", options.result, "bind: results; workers connect to it");
    app.add_option("--endpoints-file", options.endpoints_file,
                   "write the bound endpoints there as JSON");
    app.add_option("--max-batch-size", options.max_batch_size, "decode rows per frame")
        ->check(CLI::Range(1u, kFrameItemsMax));
    app.add_option("--prefill-rows", options.prefill_rows, "prompt rows per frame")
        ->check(CLI::Range(1u, kFrameRowsMax - kFrameItemsMax));
    app.add_option("--max-queue-size", options.max_queue_size, "requests that may wait")
        ->check(CLI::Range(1u, 1u << 20));
    app.add_option("--heartbeat-interval-ms", options.heartbeat_interval_ms, "both ways")
        ->check(CLI::Range(10u, 60'000u));
    app.add_option("--failure-threshold", options.failure_threshold,
                   "silent intervals until a worker is dead")
        ->check(CLI::Range(2u, 1000u));
    app.add_option("--client-silence-secs", options.client_silence_secs,
                   "a client that says nothing for so long is gone")
        ->check(CLI::Range(1u, 86'400u));
    app.add_option("--drain-timeout-secs", options.drain_timeout_secs,
                   "requests have so long to finish after SIGTERM")
        ->check(CLI::Range(0u, 86'400u));
    app.add_option("--log-level", options.log_level)->check(CLI::IsMember({"info", "warn"}));
}

}  // namespace

}  // namespace chatloop::actors

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    block_signals();  // one that comes during the set-up drains as soon as the loop runs
    Options options;
    CLI::App app("ChatLoop's router: requests in, tokens out", kActor);
    add_options(app, options);
    parse_or_exit(app, kActor, argc, argv);
    die_with_parent();
    value_or_die(kActor, choose_kernels("auto"));  // the same CPU and build checks as a worker's
    const ModelSpec spec = value_or_die(kActor, read_spec(options.model));
    const auto text = value_or_die(kActor, load_text_engine(options.model + "/tokenizer"));
    start_log(kActor, options.log_level);
    return RouterNode(options, spec, *text).run();
}
