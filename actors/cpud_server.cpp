#include "cpud_server.hpp"

#include <CLI/CLI.hpp>
#include <csignal>
#include <nlohmann/json.hpp>

#include "chatloop/bus/poll_loop.hpp"
#include "chatloop/bus/system.hpp"
#include "chatloop/http/callback.hpp"
#include "http_front.hpp"
#include "metrics.hpp"
#include "node.hpp"
#include "page.hpp"

namespace chatloop::actors {

namespace {

// The two clients of the router that the front is; health asks for itself.
const std::string kHttpClient = std::string(http::kClientPrefix) + "cpud";

class CpudServer final : public LoopHandler {
public:
    CpudServer(const std::string& actor, const CpudOptions& options, const LocalOptions& local);
    void run() { loop_.run(*this); }

    void on_tick(TimeUs now) override;
    TimeUs next_timer() const override;
    bool has_work() const override;
    void run_unit(TimeUs now) override;
    bool finished() const override;

private:
    void add_views();
    void call_back(const std::string& actor, const CpudOptions& options);

    SignalFd signals_;
    PollLoop loop_;
    HttpPort port_;
    LocalModel model_;
    LocalCluster& cluster_;
    HttpFront front_;
    std::unique_ptr<http::Callback> callback_;
    ProcessUsage usage_;
    Histogram loop_gap_s_{kStepBoundsS};
    TimeUs started_at_ = monotonic_now();
    bool called_ = false;  // its descriptor is readable
    TimeUs ticked_at_ = 0;
    TimeUs drain_until_ = kNever;  // those who read slowly have so long; kNever: it does not drain
};

std::string address_of(const CpudOptions& options) {
    const bool v6 = options.host.find(':') != options.host.npos;
    return (v6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(*options.port);
}

LocalOptions with_parallel(LocalOptions local, uint32_t parallel) {
    local.max_sequences = parallel;
    return local;
}

void log_of_router(char level, const std::string& text, const LogSpan& span) {
    log_line(level, text, span, "cluster");
}

// The port is bound before the model is loaded: that it is in use shows at once.
CpudServer::CpudServer(const std::string& actor, const CpudOptions& options,
                       const LocalOptions& local)
    : port_(loop_, actor, address_of(options)),
      model_(actor, with_parallel(local, options.parallel), log_of_router),
      cluster_(model_.cluster()),
      front_(port_, actor, options.api_keys_file, model_.router(), model_.text(),
             [this](const std::string& client, const wire::ClientBody& message, TimeUs) {
                 cluster_.send(client == http::kHealthClient ? client : kHttpClient, message);
             }) {
    raise_descriptor_limit();
    for (const std::string& client : {kHttpClient, http::kHealthClient})
        cluster_.attach_client(client, [this, client](const wire::RouterBody& body, TimeUs) {
            front_.hear(client, body);
        });
    loop_.add_fd(signals_.fd(), [this](TimeUs now) {
        while (const int signal = signals_.take()) {
            if (signal == SIGHUP) continue;  // its settings are its flags: nothing to read again
            const bool draining = drain_until_ != kNever;
            if (signal == kParentDied && draining) continue;
            drain_until_ = draining ? now : now + model_.router().drain_timeout_us;
            cluster_.router().drain(now);
        }
    });
    add_views();
    if (!options.callback_url.empty()) call_back(actor, options);
    log_line('i', options.worker_id + " listens at " + port_.url() + ", " + model_.weights());
}

// As of a router and of workers: the page, /status.json and /metrics, on the one port.
void CpudServer::add_views() {
    add_page(port_.site());
    add_status_json(port_.site(), [this] { return cluster_.router().status(); });
    port_.site().add("GET", "/metrics", http::Access::kOpen,
                     [this](http::ExchangeId, http::Request&, TimeUs now) {
                         usage_.update(now);
                         Exposition page;
                         add_process_metrics(page, {usage_, loop_gap_s_, started_at_}, now);
                         add_router_metrics(page, cluster_.router());
                         for (size_t i = 0; i < cluster_.workers(); ++i)
                             add_worker_metrics(page, "worker-" + std::to_string(i),
                                                cluster_.worker(i), usage_);
                         return http::Response{200, kExpositionType, page.text(), {}};
                     });
}

void CpudServer::call_back(const std::string& actor, const CpudOptions& options) {
    const std::string bound = port_.url();
    const nlohmann::json ready = {{"status", "ready"},
                                  {"worker_id", options.worker_id},
                                  {"model", model_.router().model_name},
                                  {"memory_bytes", model_.bytes()}};
    const auto body = [ready, bound](const std::string& own_address) {
        nlohmann::json message = ready;
        const size_t any = std::min(bound.find("//0.0.0.0:"), bound.find("//[::]:"));
        message["endpoint"] = any == bound.npos
                                  ? bound
                                  : "http://" + own_address + bound.substr(bound.rfind(':'));
        return message.dump();
    };
    const auto log = [](char level, const std::string& text) { log_line(level, text); };
    callback_ = value_or_die(actor, http::Callback::create(options.callback_url, body, log));
    loop_.add_fd(callback_->fd(), [this](TimeUs) { called_ = true; });
}

void CpudServer::on_tick(TimeUs now) {
    ticked_at_ = now;
    loop_gap_s_.add(static_cast<double>(loop_.take_loop_gap()) / kSecondUs);
    cluster_.tick(now);
    front_.on_tick(now);
    port_.on_tick(now);
    if (callback_ != nullptr && (std::exchange(called_, false) || now >= callback_->next_timer()))
        callback_->turn(now);
}

TimeUs CpudServer::next_timer() const {
    const TimeUs callback_at = callback_ == nullptr ? kNever : callback_->next_timer();
    const TimeUs drained_at = cluster_.router().finished() ? drain_until_ : kNever;
    return std::min({cluster_.next_timer(), front_.next_timer(), port_.next_timer(), callback_at,
                     drained_at});
}

bool CpudServer::has_work() const {
    return cluster_.has_work() || front_.has_news() || port_.has_work();
}

// Messages cost little, a unit of work up to 25 ms: the loop looks at its sockets behind each.
void CpudServer::run_unit(TimeUs now) {
    constexpr int kSteps = 16;
    constexpr TimeUs kEnoughUs = kMillisecondUs;
    const auto oldest = [](size_t) { return size_t{0}; };
    for (int i = 0; i < kSteps && cluster_.step(oldest, monotonic_now); ++i)
        if (monotonic_now() - now >= kEnoughUs) break;
    front_.deliver(monotonic_now());
    if (port_.has_work()) port_.flush(monotonic_now());
}

bool CpudServer::finished() const {
    return drain_until_ != kNever && cluster_.router().finished() &&
           (front_.idle() || ticked_at_ >= drain_until_);
}

}  // namespace

void add_cpud_options(CLI::App& app, CpudOptions& options) {
    app.add_option("--port", options.port, "serve HTTP there, as a worker; 0: any free port")
        ->check(CLI::Range(0u, 65535u));
    app.add_option("--host", options.host, "the address that is bound (default 127.0.0.1)");
    app.add_option("--worker-id", options.worker_id, "its name in logs and in the ready message");
    app.add_option("--callback-url", options.callback_url,
                   "gets a POST with worker id, endpoint, model and memory when it is ready");
    app.add_option("--parallel", options.parallel,
                   "requests at once; by default strictly one after another")
        ->check(CLI::Range(1u, 128u));
    app.add_option("--api-keys-file", options.api_keys_file,
                   "keys of which clients must have one, a line each");
}

int run_cpud(const std::string& actor, const CpudOptions& options, const LocalOptions& local) {
    report_lost_pages(actor, kConfig);
    die_with_parent();
    start_log(actor, options.log_level);
    CpudServer server(actor, options, local);
    server.run();
    log_line('i', "drained");
    return kDrained;
}

}  // namespace chatloop::actors
