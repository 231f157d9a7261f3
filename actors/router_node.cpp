#include "router_node.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "command_line.hpp"
#include "metrics.hpp"
#include "page.hpp"

namespace chatloop::actors {

namespace {

constexpr TimeUs kFarewellUs = 500 * kMillisecondUs;

}  // namespace

Result<RouterOptions> router_options(const Settings& settings) {
    const auto count = [&](const char* path) {
        return static_cast<uint32_t>(settings.integer(path));
    };
    const auto milliseconds = [&](const char* path) {
        return static_cast<TimeUs>(settings.number(path) * kMillisecondUs);
    };
    RouterOptions options;
    Result<std::string> model = model_path(settings);
    if (!model) return model.error();
    const Settings* own[] = {&settings};
    Result<std::vector<BoundAddress>> bound = check_addresses(own);
    if (!bound) return bound.error();
    options.bound = std::move(*bound);
    options.model = std::move(*model);
    options.name = settings.text("router.router_id");
    options.ctrl = settings.text("bus.ctrl");
    options.front = settings.text("bus.front");
    options.result = settings.text("bus.result");
    if (settings.has("http.bind")) options.http = settings.text("http.bind");
    if (settings.has("http.api_keys_file")) {
        options.api_keys_file = settings.text("http.api_keys_file");
        if (const auto keys = read_keys(options.api_keys_file); !keys)
            return Error{keys.error().code, settings.origin("http.api_keys_file") + ": " +
                                                keys.error().message};
    }
    if (settings.has("http.journal_dir")) {
        options.journal_dir = settings.text("http.journal_dir");
        if (options.http.empty())
            return Error{ErrorCode::kInvalidRequest,
                         settings.origin("http.journal_dir") +
                             ": a journal is of streams over HTTP: set http.bind, too"};
    }
    options.metrics = metrics_address(settings);
    if (settings.has("observability.otel_endpoint"))
        options.otel_endpoint = settings.text("observability.otel_endpoint");
    options.exporter = settings.text("observability.exporter");
    options.router.trace_ratio = settings.number("observability.trace_ratio");
    options.kv_type = kv_type(settings.text("performance.kv_cache_dtype"));
    RouterConfig& router = options.router;
    router.max_batch_size = count("batching.max_batch_size");
    router.prefill_rows = count("batching.prefill_rows");
    router.prefill_slice_us = milliseconds("batching.prefill_slice_ms");
    router.batching_window_us = milliseconds("batching.batching_window_ms");
    router.frames_in_flight = count("batching.frames_in_flight");
    router.max_sequences = count("batching.max_sequences");
    router.kv_headroom_tokens = count("batching.kv_headroom_tokens");
    router.prefix_cache = settings.flag("batching.prefix_cache");
    router.max_queue_size = count("batching.max_queue_size");
    router.queue_timeout_us = milliseconds("batching.queue_timeout_ms");
    router.client_silence_us = settings.seconds("bus.client_silence_secs");
    router.route_wait_us = settings.seconds("route_wait_secs");
    router.drain_timeout_us = settings.seconds("drain_timeout_secs");
    router.cluster.heartbeat_interval_ms = static_cast<uint32_t>(
        settings.seconds("health_check_interval_secs") / kMillisecondUs);
    router.cluster.failure_threshold = count("failure_threshold");
    return options;
}

RouterModel open_router_model(const std::string& actor, const RouterOptions& options) {
    value_or_die(actor, choose_kernels("auto"));  // the same CPU and build checks as a worker's
    RouterModel model;
    model.spec = value_or_die(actor, read_spec(options.model));
    model.text = value_or_die(actor, open_text(options.model, model.spec));
    return model;
}

void check_router(const std::string& actor, const RouterOptions& options) {
    if (!options.journal_dir.empty()) value_or_die(actor, JournalFiles::check(options.journal_dir));
    value_or_die(actor, check_own(options.bound));
}

RouterNode::RouterNode(Host& host, const std::string& actor, const RouterOptions& options,
                       const RouterModel& model)
    : Node(host, actor),
      ctrl_(host.context(), SocketKind::kRouter, SocketUse::kControl),
      front_(host.context(), SocketKind::kRouter, SocketUse::kFront),
      result_(host.context(), SocketKind::kPull, SocketUse::kData),
      spoke_at_(-kFarewellUs) {
    bind_or_die(ctrl_, options.ctrl);
    bind_or_die(front_, options.front);
    bind_or_die(result_, options.result);
    if (!options.journal_dir.empty())
        journal_ = value_or_die(actor, JournalFiles::open(options.journal_dir));
    http_ = open_port(options.http);
    open_metrics(options.metrics);
    RouterConfig config = router_config(model.spec, options.kv_type, options.router);
    config.seed = random_u64();
    drain_timeout_us_ = config.drain_timeout_us;
    config.cluster.name = options.name;
    config.cluster.incarnation = random_u64();
    config.cluster.result_endpoint = connectable(actor, result_);
    const auto log = [](char level, const std::string& text, const LogSpan& span) {
        log_line(level, text, span, level == 'd' ? "batching" : "cluster");
    };
    router_ = std::make_unique<Router>(config, *this, *model.text, log);
    if (!options.otel_endpoint.empty()) {
        traces_ = std::make_unique<TraceSender>(
            host.context(), actor, options.exporter,
            wire::TraceSource{"chatloop-router", options.name, options.otel_endpoint});
        router_->set_trace_sink([this](const wire::Trace& trace, TimeUs arrived_at) {
            traces_->send(trace, arrived_at);
        });
    }
    if (http_ != nullptr) {
        add_page(http_->site());
        add_status_json(http_->site(), [this] { return router_->status(); });
        api_ = std::make_unique<HttpFront>(
            *http_, actor, options.api_keys_file, config, *model.text,
            [this](const std::string& client, const wire::ClientBody& message, TimeUs now) {
                router_->on_client(client, wire::encode_client(message), now);
            },
            journal_.get());
    }
    wire();
    restore_streams();
    write_endpoints(options.endpoints_file);
}

void RouterNode::wire() {
    PollLoop& loop = host_.loop();
    loop.add_socket(ctrl_, Priority::kControl, [this](TimeUs now, Envelope envelope) {
        router_->on_control(envelope.peer, envelope.message.bytes(), now);
    });
    loop.add_socket(front_, Priority::kData, [this](TimeUs now, Envelope envelope) {
        // A routing id is what its peer says it is, also that of one of ours who came by HTTP.
        if (HttpFront::owns(envelope.peer)) return front_.note_malformed();
        router_->on_client(envelope.peer, envelope.message.bytes(), now);
    });
    loop.add_socket(result_, Priority::kData, [this](TimeUs now, Envelope envelope) {
        on_result(std::move(envelope.message), now);
    });
    LocalBus::Handlers within;
    within.control = [this](const std::string& from, Message bytes, TimeUs now) {
        router_->on_control(from, bytes.bytes(), now);
    };
    within.data = [this](Message bytes, TimeUs now) { on_result(std::move(bytes), now); };
    attach(ctrl_.last_endpoint(), result_.last_endpoint(), std::move(within));
}

// They wait for a route like everybody else.
void RouterNode::restore_streams() {
    if (journal_ == nullptr) return;
    journal_->restore([this](wire::ByteView bytes) { return api_->api().restore(bytes); });
    if (journal_->restored() > 0)
        log_line('i', "journal: " + std::to_string(journal_->restored()) +
                          " resumable streams of the process before this one go on");
}

// The next frame leaves first, then what clients hear of this one.
void RouterNode::on_result(Message bytes, TimeUs now) {
    holds_ = true;
    router_->on_result(std::move(bytes), now);
    holds_ = false;
    for (auto& [peer, message] : held_) send_client(peer, std::move(message));
    held_.clear();
    if (api_ != nullptr) api_->deliver(now);
}

bool RouterNode::has_work() const {
    return router_->has_work() || (api_ != nullptr && api_->has_news());
}

void RouterNode::run_unit(TimeUs now) {
    if (router_->has_work()) router_->run_unit(now);
    if (api_ != nullptr) api_->deliver(now);
}

void RouterNode::log_endpoints() const {
    std::string text = "listening: ctrl " + ctrl_.last_endpoint() + ", front " +
                       front_.last_endpoint() + ", result " + result_.last_endpoint();
    if (http_ != nullptr) text += ", " + http_->url();
    if (metrics_ != nullptr) text += ", metrics " + metrics_->url();
    log_line('i', text);
    log_metrics();
}

void RouterNode::send_control(const std::string& peer, std::vector<uint8_t> bytes) {
    if (send_within(peer, bytes)) return;
    Message message(std::move(bytes));
    switch (ctrl_.send_to(peer, message)) {
        case Io::kOk: break;
        case Io::kWouldBlock: ++control_blocked_; break;
        case Io::kUnreachable: workers_gone_.insert(peer);
    }
}

void RouterNode::send_client(const std::string& peer, std::vector<uint8_t> bytes) {
    if (holds_) {
        held_.emplace_back(peer, std::move(bytes));
        return;
    }
    if (api_ != nullptr && HttpFront::owns(peer)) {
        Result<wire::RouterBody> body = wire::decode_router(bytes);
        CL_ASSERT(body.ok());  // the router has just written it
        return api_->hear(peer, std::move(*body));
    }
    const TimeUs now = monotonic_now();
    if (!router_->finished()) spoke_at_ = now;  // a PONG after that is no last word
    egress_.send(peer, Message(std::move(bytes)), now);
}

void RouterNode::on_tick(TimeUs now, TimeUs) {
    if (egress_.bytes() > 0) spoke_at_ = now;
    egress_.on_timer(now);
    for (const std::string& peer : egress_.take_gone()) router_->on_client_gone(peer, now);
    for (const std::string& peer : std::exchange(workers_gone_, {}))
        router_->on_worker_gone(peer, now);
    note_sockets();
    router_->on_tick(now);
    if (api_ != nullptr) api_->on_tick(now);
    ticked_at_ = now;
}

TimeUs RouterNode::next_timer() const {
    if (egress_.has_gone() || !workers_gone_.empty()) return 0;
    const TimeUs api_at = api_ == nullptr ? kNever : api_->next_timer();
    return std::min({router_->next_timer(), egress_.next_timer(), leaves_at(), api_at});
}

bool RouterNode::finished() const {
    return ticked_at_ >= leaves_at() || (at_once_ && router_->finished());
}

// A connection that is closed while its client speaks (a PING) is reset, and what the client has
// not read yet is lost: so clients get a moment to take what was said last, and those that read
// slowly the rest of the drain's time before it. kNever until the router has finished.
TimeUs RouterNode::leaves_at() const {
    if (!router_->finished()) return kNever;
    const bool all_said = egress_.bytes() == 0 && (api_ == nullptr || api_->idle());
    return (all_said ? spoke_at_ : drain_until_) + kFarewellUs;
}

void RouterNode::note_sockets() {
    router_->note_sockets({front_.malformed(), ctrl_.malformed(), result_.malformed(),
                           egress_.peers_dropped(), egress_.messages_dropped(),
                           egress_.bytes(), sends_blocked() + control_blocked_});
}

void RouterNode::write_endpoints(const std::string& file) const {
    if (file.empty()) return;
    nlohmann::json endpoints = {{"ctrl", ctrl_.last_endpoint()},
                                {"front", front_.last_endpoint()},
                                {"result", result_.last_endpoint()}};
    if (http_ != nullptr) endpoints["http"] = http_->url();
    if (metrics_ != nullptr) endpoints["metrics"] = metrics_->url();
    const std::string part = file + ".part";
    std::ofstream(part) << endpoints.dump() << "\n";
    if (std::rename(part.c_str(), file.c_str()) != 0)
        die(actor_, {ErrorCode::kBadFile, "--endpoints-file " + file + " cannot be written"});
}

void RouterNode::on_log_level() { router_->set_log_debug(log_enabled('d')); }

void RouterNode::add_metrics(Exposition& page) const {
    add_router_metrics(page, *router_);
    if (journal_ != nullptr) {
        page.gauge("coordinator_journal_streams", "Resumable streams that a restart would not lose",
                   static_cast<double>(api_->api().journaled()));
        page.gauge("coordinator_journal_bytes", "Size of the journal's files",
                   static_cast<double>(journal_->bytes()));
        page.counter("coordinator_journal_write_errors_total",
                     "Writes to the journal that failed: the disk is full, or the journal",
                     static_cast<double>(journal_->write_errors()));
        page.counter("coordinator_journal_restored_total",
                     "Streams of the process before this one that went on",
                     static_cast<double>(journal_->restored()));
        page.counter("coordinator_journal_lost_total",
                     "Files of the journal that were not taken",
                     static_cast<double>(journal_->lost()));
    }
    if (traces_ == nullptr) return;
    page.counter("coordinator_traces_sent_total", "Traces given to the exporter",
                 static_cast<double>(traces_->sent()));
    page.counter("coordinator_traces_dropped_total", "Traces that the exporter did not take",
                 static_cast<double>(traces_->dropped()));
}

void RouterNode::on_terminate(TimeUs now) {
    at_once_ = drain_until_ != kNever;  // a second one
    drain_until_ = now + drain_timeout_us_;
    router_->drain(now);
}

}  // namespace chatloop::actors
