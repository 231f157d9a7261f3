#include "worker_node.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>

#include "chatloop/core/hex.hpp"
#include "chatloop/model/fingerprint.hpp"

namespace chatloop::actors {

namespace {

constexpr uint64_t kTouchBytes = 8u << 20;  // weights per unit while loading

struct LayerRange {
    int32_t first = 0;
    int32_t end = 0;
};

Result<LayerRange> layer_range(const WorkerOptions& options, const ModelSpec& spec) {
    if (!options.layers.empty()) {
        LayerRange range;
        char rest = 0;
        const int read =
            std::sscanf(options.layers.c_str(), "%d:%d%c", &range.first, &range.end, &rest);
        if (read != 2 || range.first < 0 || range.first >= range.end || range.end > spec.n_layers)
            return Error{ErrorCode::kInvalidRequest,
                         "--layers " + options.layers + " is not FIRST:END within 0:" +
                             std::to_string(spec.n_layers)};
        return range;
    }
    const auto count = static_cast<int32_t>(spec.partitions.size());
    if (options.partition < 0 || options.partition >= count)
        return Error{ErrorCode::kInvalidRequest,
                     "--partition must lie in 0.." + std::to_string(count - 1) +
                         ": the model directory has " + std::to_string(count) + " partitions"};
    const PartitionEntry& entry = spec.partitions[static_cast<size_t>(options.partition)];
    return LayerRange{entry.layer_first, entry.layer_end};
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
    void open_model();
    void load_slice(TimeUs now);
    void on_link_change(LinkId id, bool up, TimeUs now) override {
        worker_->on_link(id, up, now);
    }
    void on_terminate(TimeUs now) override { worker_->drain(now); }

    WorkerOptions options_;
    ModelSpec spec_;
    const kernel::Kernels* kernels_ = nullptr;
    LayerRange range_;
    StageModel stage_model_;
    HeadModel head_model_;
    std::unique_ptr<StageWorker> stage_;
    std::unique_ptr<Sampler> sampler_;
    std::unique_ptr<Worker> worker_;
    bool loaded_ = false;
    Socket in_;
    std::vector<std::unique_ptr<Socket>> routers_;
};

WorkerNode::WorkerNode(const std::string& actor, const WorkerOptions& options)
    : Node(actor), options_(options), in_(context_, SocketKind::kPull, SocketUse::kData) {
    open_model();
    bind_or_die(in_, options.listen);
    WorkerConfig config;
    config.incarnation = random_u64();
    config.routers = options.routers;
    config.drain_timeout_us = options.drain_timeout_secs * kSecondUs;
    wire::Hello& hello = config.hello;
    hello.name = options.name;
    hello.endpoint = connectable(actor, in_);
    hello.layers = static_cast<uint32_t>(spec_.n_layers);
    hello.width = static_cast<uint32_t>(spec_.hidden_size);
    hello.vocab = static_cast<uint32_t>(spec_.vocab_size);
    hello.model_id = spec_.model_id;
    hello.cut_id = spec_.cut_id;
    hello.fingerprint = numerics_fingerprint(spec_).value;
    hello.kernels = kernels_->name;
    hello.self_test = kernel::kSelfTestDigest;
    const auto shares = static_cast<uint32_t>(options.routers.size());
    hello.share = {std::max(1u, kShareFramesMax / shares), kShareBytesMax / shares, 0, 0};
    if (options.is_stage) {
        hello.roles |= wire::kRoleStage;
        hello.layer_first = static_cast<uint32_t>(range_.first);
        hello.layer_end = static_cast<uint32_t>(range_.end);
        hello.share.slots = std::max(1u, options.max_sequences / shares);
        hello.share.blocks = stage_model_.pool->blocks() / shares;
        StageConfig stage;
        stage.share = hello.share;
        stage.shares = shares;
        stage.vocab = hello.vocab;
        stage.blocks_per_slot = blocks_per_slot(spec_);
        stage_ = std::make_unique<StageWorker>(stage);
    }
    if (!options.is_stage || options.with_sampler) {
        hello.roles |= wire::kRoleSampler;
        sampler_ = std::make_unique<Sampler>(*kernels_);
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

void WorkerNode::open_model() {
    kernels_ = value_or_die(actor_, choose_kernels(options_.kernels));
    spec_ = value_or_die(actor_, read_spec(options_.model));
    if (options_.is_stage) {
        range_ = value_or_die(actor_, layer_range(options_, spec_));
        stage_model_ = value_or_die(actor_, open_stage(options_.model, spec_, range_.first,
                                                       range_.end, options_.kv_cache_mb));
        if (options_.poison_kv) stage_model_.pool->poison();
    }
    if (!options_.is_stage || options_.with_sampler) {
        head_model_ = value_or_die(actor_, actors::open_head(options_.model, spec_));
    }
}

// LOADING: brings the weights into memory a slice a unit, so that heartbeats flow.
void WorkerNode::load_slice(TimeUs now) {
    for (Checkpoint* checkpoint :
         {stage_model_.checkpoint.get(), head_model_.checkpoint.get()}) {
        if (checkpoint == nullptr || checkpoint->loaded()) continue;
        if (const Result<bool> touched = checkpoint->touch(kTouchBytes); !touched)
            die(actor_, touched.error());
        return;
    }
    if (stage_ != nullptr) {
        finish_stage(stage_model_, spec_, *kernels_);
        stage_->set_compute(*stage_model_.stack);
    }
    if (sampler_ != nullptr) {
        finish_head(head_model_, spec_, *kernels_);
        sampler_->set_compute(*head_model_.head);
    }
    loaded_ = true;
    worker_->set_ready(now);
    log_line('i', "ready");
}

void WorkerNode::run_unit(TimeUs now) {
    if (!loaded_) return load_slice(now);
    worker_->run_unit(now);
    worker_->unit_done(monotonic_now());
}

int WorkerNode::run() {
    log_line('i', options_.name + " listens at " + in_.last_endpoint() + ", " + kernels_->name +
                      " kernels");
    loop_.run(*this);
    if (worker_->rejection()) {
        std::fprintf(stderr, "%s: %s\n", actor_.c_str(), worker_->rejection()->c_str());
        return kConfig;
    }
    log_line('i', "drained");
    return kDrained;
}

}  // namespace

void add_worker_options(CLI::App& app, WorkerOptions& options) {
    app.add_option("--model", options.model, "model directory")->required();
    app.add_option("--name", options.name, "unique among the workers")->required();
    app.add_option("--listen", options.listen, "bind: frames; peers connect to this address")
        ->required();
    app.add_option("--router", options.routers, "control endpoint of a router; repeatable");
    app.add_option("--drain-timeout-secs", options.drain_timeout_secs,
                   "frames have so long to finish after SIGTERM")
        ->check(CLI::Range(0u, 86'400u));
    app.add_option("--kernels", options.kernels, "auto, avx2 or reference");
    app.add_option("--log-level", options.log_level)->check(CLI::IsMember({"info", "warn"}));
}

int run_worker(const std::string& actor, const WorkerOptions& options) {
    const auto name_ok = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    };
    if (options.name.empty() || options.name.size() > 64 ||
        !std::all_of(options.name.begin(), options.name.end(), name_ok))
        die(actor, {ErrorCode::kInvalidRequest,
                    "--name takes 1 to 64 letters, digits, '-', '_' and '.'"});
    die_with_parent();
    WorkerNode node(actor, options);
    start_log(actor, options.log_level);
    return node.run();
}

}  // namespace chatloop::actors
