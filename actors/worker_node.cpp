#include "worker_node.hpp"

#include <algorithm>
#include <cstdio>

#include "chatloop/core/hex.hpp"
#include "chatloop/model/fingerprint.hpp"
#include "command_line.hpp"

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
    const Result<const kernel::Kernels*> kernels = choose_kernels(options.kernels);
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
        return Error{ErrorCode::kInvalidRequest, "worker.weights_path: a sampler's weights are " +
                                                     model.spec.head.file + ", not " +
                                                     options.weights_file};
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
    WorkerNode(const std::string& actor, const WorkerOptions& options);
    int run();

    void send_control(const std::string& peer, std::vector<uint8_t> bytes) override {
        Message message(std::move(bytes));
        for (size_t i = 0; i < routers_.size(); ++i) {
            if (options_.routers[i] != peer) continue;
            (void)routers_[i]->send(message);  // lost ones are repeated: heartbeats carry the state
        }
    }
    void send_client(const std::string&, std::vector<uint8_t>) override {
        CL_ASSERT(!"a worker has no clients");
    }

    void on_tick(TimeUs now) override {
        worker_->note_loop_gap(loop_.take_loop_gap());
        uint64_t malformed = in_.malformed();
        for (const auto& router : routers_) malformed += router->malformed();
        worker_->note_malformed(malformed);
        worker_->on_tick(now);
    }
    TimeUs next_timer() const override { return worker_->next_timer(); }
    bool has_work() const override {
        return !finished() && (!loaded_ || worker_->has_work());
    }
    void run_unit(TimeUs now) override;
    bool finished() const override {
        return worker_->finished() || worker_->rejection().has_value();
    }

private:
    void load_slice(TimeUs now);
    void on_link_change(LinkId id, bool up, TimeUs now) override {
        worker_->on_link(id, up, now);
    }
    void on_terminate(TimeUs now) override { worker_->drain(now); }

    WorkerOptions options_;
    WorkerModel model_;
    std::unique_ptr<StageWorker> stage_;
    std::unique_ptr<Sampler> sampler_;
    std::unique_ptr<Worker> worker_;
    bool loaded_ = false;
    Socket in_;
    std::vector<std::unique_ptr<Socket>> routers_;
};

WorkerNode::WorkerNode(const std::string& actor, const WorkerOptions& options)
    : Node(actor, options.io_cpus),
      options_(options),
      in_(context_, SocketKind::kPull, SocketUse::kData) {
    model_ = value_or_die(actor, open_model(options));
    if (options.poison_kv) model_.stage.pool->poison();
    bind_or_die(in_, options.listen);
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
    const std::string incarnation = hex16(config.incarnation);
    for (const std::string& router : options.routers) {
        auto socket = std::make_unique<Socket>(context_, SocketKind::kDealer, SocketUse::kControl,
                                               "worker:" + options.name + ":" + incarnation);
        if (const Status connected = socket->connect(router); !connected)
            die(actor, connected.error());
        loop_.add_socket(*socket, Priority::kControl, [this, router](TimeUs now, Envelope e) {
            worker_->on_control(router, e.message.bytes(), now);
        });
        routers_.push_back(std::move(socket));
    }
    loop_.add_socket(in_, Priority::kData, [this](TimeUs now, Envelope e) {
        worker_->on_data(std::move(e.message), now);
    });
    worker_ = std::make_unique<Worker>(std::move(config), *this, stage_.get(), sampler_.get());
}

// LOADING: reads and checks the weights a slice a unit, so that heartbeats flow.
void WorkerNode::load_slice(TimeUs now) {
    for (Checkpoint* checkpoint :
         {model_.stage.checkpoint.get(), model_.head.checkpoint.get()}) {
        if (checkpoint == nullptr || checkpoint->loaded()) continue;
        if (value_or_die(actor_, checkpoint->load(kLoadBytes))) {
            for (const std::string& outcome : checkpoint->outcomes()) log_line('i', outcome);
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
    if (!weights.warning.empty()) log_line('w', weights.warning);
    log_line('i', "ready: " + weights.text);
}

void WorkerNode::run_unit(TimeUs now) {
    if (!loaded_) return load_slice(now);
    worker_->run_unit(now);
    worker_->unit_done(monotonic_now());
}

int WorkerNode::run() {
    log_line('i', options_.name + " listens at " + in_.last_endpoint() + ", " +
                      model_.kernels->name + " kernels");
    loop_.run(*this);
    if (worker_->rejection()) {
        std::fprintf(stderr, "%s: %s\n", actor_.c_str(), worker_->rejection()->c_str());
        return kConfig;
    }
    log_line('i', "drained");
    return kDrained;
}

}  // namespace

int check_worker(const std::string& actor, const WorkerOptions& options) {
    const WorkerModel model = value_or_die(actor, open_model(options));
    value_or_die(actor, check_endpoint(options.listen, EndpointUse::kBind));
    value_or_die(actor, check_connectable(options.listen));
    for (const std::string& router : options.routers)
        value_or_die(actor, check_endpoint(router, EndpointUse::kConnect));
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

int run_worker(const std::string& actor, const WorkerOptions& options) {
    die_with_parent();
    report_lost_pages(actor, kConfig);
    WorkerNode node(actor, options);
    start_log(actor, options.log_level);
    for (const std::string& warning : options.warnings) log_line('w', warning);
    return node.run();
}

}  // namespace chatloop::actors
