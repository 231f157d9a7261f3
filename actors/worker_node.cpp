#include "worker_node.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "chatloop/core/hex.hpp"
#include "chatloop/model/fingerprint.hpp"
#include "command_line.hpp"
#include "metrics.hpp"

namespace chatloop::actors {

namespace {

// A worker's files, opened and checked.
struct WorkerModel {
    const kernel::Kernels* kernels = nullptr;
    ModelSpec spec;
    LayerRange layers;
    StageModel stage;
    HeadModel head;
};

Result<WorkerModel> open_model(const WorkerOptions& options) {
    WorkerModel model;
    const Result<const kernel::Kernels*> kernels =
        choose_kernels(options.kernels, kernel::cpu_features(), options.kernels_origin);
    if (!kernels) return kernels.error();
    model.kernels = *kernels;
    Result<ModelSpec> spec = read_spec(options.model);
    if (!spec) return spec.error();
    model.spec = std::move(*spec);
    if (options.is_stage) {
        const Result<LayerRange> layers = layer_range(options, model.spec);
        if (!layers) return layers.error();
        model.layers = *layers;
        Result<StageModel> stage = open_stage(options.model, model.spec, layers->first,
                                              layers->end, options.memory);
        if (!stage) return stage.error();
        model.stage = std::move(*stage);
    } else if (!options.weights_file.empty() && options.weights_file != model.spec.head.file) {
        return Error{ErrorCode::kInvalidRequest,
                     options.weights_origin + ": a sampler's weights are " +
                         model.spec.head.file + ", not " + options.weights_file};
    }
    if (!options.is_stage || options.with_sampler) {
        Result<HeadModel> head = actors::open_head(options.model, model.spec, options.memory);
        if (!head) return head.error();
        model.head = std::move(*head);
    }
    const Status fits = check_memory(model.spec, {&model.stage, 1}, model.head, *model.kernels,
                                     options.memory);
    if (!fits) return fits.error();
    return model;
}

class WorkerNode final : public Node {
public:
    WorkerNode(Host& host, const std::string& actor, const WorkerOptions& options);
    void log_start() const;
    const std::optional<std::string>& rejection() const { return worker_->rejection(); }

    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override {
        if (send_within(peer, bytes)) return;
        Message message(std::move(bytes));
        const auto router = routers_.find(peer);
        CL_ASSERT(router != routers_.end());
        (void)router->second->send(message);  // lost ones are repeated: heartbeats carry the state
    }
    void send_client(const std::string&, std::vector<uint8_t>) override {
        CL_ASSERT(!"a worker has no clients");
    }

    void on_tick(TimeUs now, TimeUs gap) override {
        worker_->note_loop_gap(gap);
        const ProcessUsage& usage = host_.usage();
        worker_->note_process(usage.cpu_us() / 1000, usage.memory_bytes());
        uint64_t malformed = in_.malformed();
        for (const auto& [peer, socket] : routers_) malformed += socket->malformed();
        worker_->note_sockets(malformed, sends_blocked());
        worker_->on_tick(now);
    }
    TimeUs next_timer() const override { return worker_->next_timer(); }
    bool has_work() const override {
        return !finished() && (!loaded_ || worker_->has_work());
    }
    void run_unit(TimeUs now) override;
    bool finished() const override { return worker_->finished() || failed(); }
    bool failed() const override { return worker_->rejection().has_value(); }
    void on_terminate(TimeUs now) override { worker_->drain(now); }
    void add_metrics(Exposition& page) const override {
        add_worker_metrics(page, options_.name, *worker_, host_.usage());
    }

private:
    void wire(const WorkerConfig& config);
    void load_slice(TimeUs now);
    http::Response readiness() const;
    void on_link_change(LinkId id, bool up, TimeUs now) override {
        worker_->on_link(id, up, now);
    }

    WorkerOptions options_;
    WorkerModel model_;
    std::unique_ptr<StageWorker> stage_;
    std::unique_ptr<Sampler> sampler_;
    std::unique_ptr<Worker> worker_;
    bool loaded_ = false;
    Socket in_;
    std::map<std::string, std::unique_ptr<Socket>> routers_;  // by control address
};

WorkerNode::WorkerNode(Host& host, const std::string& actor, const WorkerOptions& options)
    : Node(host, actor),
      options_(options),
      in_(host.context(), SocketKind::kPull, SocketUse::kData) {
    model_ = value_or_die(actor, open_model(options));
    if (options.poison_kv) model_.stage.pool->poison();
    bind_or_die(in_, options.listen);
    open_metrics(options.metrics);
    if (metrics_ != nullptr)
        metrics_->site().add("GET", "/readyz", http::Access::kOpen,
                             [this](http::ExchangeId, http::Request&, TimeUs) {
                                 return std::optional<http::Response>(readiness());
                             });
    WorkerConfig config;
    config.incarnation = random_u64();
    config.routers = options.routers;
    config.drain_timeout_us = options.drain_timeout_us;
    wire::Hello& hello = config.hello;
    hello.name = options.name;
    hello.endpoint = connectable(actor, in_);
    hello.layers = static_cast<uint32_t>(model_.spec.n_layers);
    hello.width = static_cast<uint32_t>(model_.spec.hidden_size);
    hello.vocab = static_cast<uint32_t>(model_.spec.vocab_size);
    hello.model_id = model_.spec.model_id;
    hello.cut_id = model_.spec.cut_id;
    hello.fingerprint = numerics_fingerprint(model_.spec, std::nullopt).value;
    hello.kernels = model_.kernels->name;
    hello.self_test = kernel::kSelfTestDigest;
    const auto shares = static_cast<uint32_t>(options.routers.size());
    hello.share = {std::max(1u, kShareFramesMax / shares), kShareBytesMax / shares, 0, 0};
    if (options.is_stage) {
        hello.roles |= wire::kRoleStage;
        hello.fingerprint = numerics_fingerprint(model_.spec, options.memory.kv_type).value;
        hello.kv_cache_dtype = kv_type_name(options.memory.kv_type);
        hello.layer_first = static_cast<uint32_t>(model_.layers.first);
        hello.layer_end = static_cast<uint32_t>(model_.layers.end);
        hello.share.slots = std::max(1u, options.max_sequences / shares);
        hello.share.blocks = model_.stage.pool->blocks() / shares;
        StageConfig stage;
        stage.share = hello.share;
        stage.shares = shares;
        stage.vocab = hello.vocab;
        stage.blocks_per_slot = blocks_per_slot(model_.spec);
        stage_ = std::make_unique<StageWorker>(stage);
    }
    if (!options.is_stage || options.with_sampler) {
        hello.roles |= wire::kRoleSampler;
        sampler_ = std::make_unique<Sampler>(*model_.kernels);
    }
    wire(config);
    worker_ = std::make_unique<Worker>(std::move(config), *this, stage_.get(), sampler_.get());
}

void WorkerNode::wire(const WorkerConfig& config) {
    const std::string name = "worker:" + options_.name + ":" + hex16(config.incarnation);
    for (const std::string& router : config.routers) {
        if (host_.bus().has_peer(router)) continue;
        auto socket = std::make_unique<Socket>(host_.context(), SocketKind::kDealer,
                                               SocketUse::kControl, name);
        if (const Status connected = socket->connect(router); !connected)
            die(actor_, connected.error());
        const auto on_message = [this, router](TimeUs now, Envelope e) {
            worker_->on_control(router, e.message.bytes(), now);
        };
        host_.loop().add_socket(*socket, Priority::kControl, on_message);
        routers_[router] = std::move(socket);
    }
    host_.loop().add_socket(in_, Priority::kData, [this](TimeUs now, Envelope e) {
        worker_->on_data(std::move(e.message), now);
    });
    LocalBus::Handlers within;
    within.control = [this](const std::string& from, Message bytes, TimeUs now) {
        worker_->on_control(from, bytes.bytes(), now);
    };
    within.data = [this](Message bytes, TimeUs now) { worker_->on_data(std::move(bytes), now); };
    attach(name, config.hello.endpoint, std::move(within));
}

// LOADING: reads and checks the weights a slice a unit, so that heartbeats flow.
void WorkerNode::load_slice(TimeUs now) {
    for (Checkpoint* checkpoint :
         {model_.stage.checkpoint.get(), model_.head.checkpoint.get()}) {
        if (checkpoint == nullptr || checkpoint->loaded()) continue;
        if (value_or_die(actor_, checkpoint->load(kLoadBytes))) {
            for (const std::string& outcome : checkpoint->outcomes())
                log_line('i', outcome, {}, "model");
        }
        return;
    }
    if (stage_ != nullptr) {
        finish_stage(model_.stage, model_.spec, *model_.kernels, options_.memory);
        stage_->set_compute(*model_.stage.stack);
    }
    if (sampler_ != nullptr) {
        finish_head(model_.head, model_.spec, *model_.kernels, options_.memory);
        sampler_->set_compute(*model_.head.head);
    }
    loaded_ = true;
    worker_->set_ready(now);
    const WeightReport weights = report_weights({&model_.stage, 1}, model_.head);
    if (!weights.warning.empty()) log_line('w', weights.warning, {}, "model");
    log_line('i', "ready: " + weights.text, {}, "model");
}

// Of this process alone; the router's tells whether frames go through.
http::Response WorkerNode::readiness() const {
    const nlohmann::json body = {{"status", loaded_ ? "ready" : "loading"},
                                 {"worker", options_.name},
                                 {"layers", {model_.layers.first, model_.layers.end}}};
    return {loaded_ ? 200 : 503, "application/json", body.dump(), {}};
}

void WorkerNode::run_unit(TimeUs now) {
    if (!loaded_) return load_slice(now);
    worker_->run_unit(now);
    worker_->unit_done(monotonic_now());
}

void WorkerNode::log_start() const {
    const std::string metrics = metrics_ == nullptr ? "" : "metrics " + metrics_->url() + ", ";
    log_line('i', options_.name + " listens at " + in_.last_endpoint() + ", " + metrics +
                      model_.kernels->name + " kernels");
    log_metrics();
}

}  // namespace

int check_worker(const std::string& actor, const WorkerOptions& options) {
    const WorkerModel model = value_or_die(actor, open_model(options));
    value_or_die(actor, check_own(options.bound));
    if (options.router) {
        open_router_model(actor, *options.router);
        check_router(actor, *options.router);
    }
    std::string layers;
    if (options.is_stage)
        layers = ", layers " + std::to_string(model.layers.first) + " to " +
                 std::to_string(model.layers.end - 1);
    print_warnings(actor, options.warnings);
    std::printf("%s: all is well: %s of %s%s, to listen at %s\n", actor.c_str(),
                options.name.c_str(), model.spec.model_name.c_str(), layers.c_str(),
                options.listen.c_str());
    return kDrained;
}

int run_worker(const std::string& actor, const WorkerOptions& given) {
    die_with_parent();
    report_lost_pages(actor, kConfig);
    WorkerOptions options = given;
    Host host(options.io_cpus);
    RouterModel router_model;
    std::unique_ptr<RouterNode> router;
    if (options.router) {
        router_model = open_router_model(actor, *options.router);
        router = std::make_unique<RouterNode>(host, actor, *options.router, router_model);
        options.routers.insert(options.routers.begin(), router->ctrl());
    }
    WorkerNode worker(host, actor, options);
    start_log(actor, options.log_level, log_format(options.log_format));
    host.set_reload(options.reload_log);
    if (router != nullptr) router->on_log_level();
    for (const std::string& warning : options.warnings) log_line('w', warning);
    if (router != nullptr) router->log_endpoints();
    worker.log_start();
    host.run();
    if (worker.rejection()) {
        std::fprintf(stderr, "%s: %s\n", actor.c_str(), worker.rejection()->c_str());
        return kConfig;
    }
    log_line('i', "drained");
    return kDrained;
}

}  // namespace chatloop::actors
