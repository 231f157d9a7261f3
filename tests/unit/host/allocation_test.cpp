// How often memory is taken for a token once a cluster runs: never in a worker, and so often in the
// router. The numbers of docs/performance.md.
#include <doctest/doctest.h>

#include <cstdlib>
#include <new>

#include "chatloop/host/local_cluster.hpp"
#include "fake_text.hpp"
#include "hash_model.hpp"

using namespace chatloop;

namespace {

uint64_t allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
    ++allocations;
    return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

constexpr Incarnation kRouter = 1;
constexpr Incarnation kSelf = 2;
constexpr Incarnation kNext = 3;
constexpr uint32_t kStreams = 3;

class Nowhere final : public Outbox {
public:
    void send_control(const std::string&, std::vector<uint8_t>) override {}
    void send_client(const std::string&, std::vector<uint8_t>) override {}
    void open_link(LinkId, const std::string&) override {}
    void close_link(LinkId) override {}
    void send_data(LinkId, Message) override { ++frames; }
    size_t backlog(LinkId) const override { return 0; }
    int frames = 0;
};

// A worker with one route, whose hops are `hops`.
struct Rig {
    Rig(std::vector<wire::RouteHop> hops, uint8_t roles)
        : head(sim::Mistake::kNone), stage_compute(0, true, 64) {
        const wire::Share share{8, 1u << 24, 8, 64};
        StageConfig stage_config;
        stage_config.share = share;
        stage_config.vocab = sim::kVocab;
        stage_config.blocks_per_slot = 8;
        stage = std::make_unique<StageWorker>(stage_config);
        stage->set_compute(stage_compute);
        sampler = std::make_unique<Sampler>(
            *kernel::find_kernels("reference", kernel::cpu_features()));
        sampler->set_compute(head);
        WorkerConfig config;
        config.incarnation = kSelf;
        config.routers = {"router"};
        config.hello.share = share;
        config.hello.width = sim::kWidth;
        worker = std::make_unique<Worker>(
            config, outbox, (roles & wire::kRoleStage) != 0 ? stage.get() : nullptr,
            (roles & wire::kRoleSampler) != 0 ? sampler.get() : nullptr);
        worker->set_ready(1);
        hear(wire::Welcome{kSelf, "router", 200, 4, "result"});
        hear(wire::Route{1, 0, 8, 64, std::move(hops)});
        worker->on_link(1, true, 1);
    }
    void hear(wire::ControlBody body) {
        worker->on_control("router", wire::encode_control({kRouter, ++sequence, std::move(body)}),
                           1);
    }
    // The frame in which every stream decodes the row at `position`.
    static Message frame_at(uint32_t position, uint8_t hop, wire::DType dtype) {
        const wire::FrameHeader header{wire::kFrameData, kRouter, 1, position + 1, hop, kSelf, 0};
        std::vector<wire::Item> items(kStreams);
        for (uint32_t slot = 0; slot < kStreams; ++slot) {
            wire::Item& item = items[slot];
            item.slot = slot;
            item.admission = slot + 1;
            item.position = position;
            item.rows = 1;
            if (position == 0) item.flags = wire::kItemFirst;
            item.table_index = (position + 63) / 64;
            if (position % 64 == 0) item.blocks = {8 * slot + position / 64};
            item.outputs = {0};
            wire::Sample sample;
            sample.index = position;
            sample.temperature = 0.4f * static_cast<float>(slot);
            sample.top_k = 10 * slot;
            sample.logprobs = static_cast<uint8_t>(slot);
            item.sample = wire::encode_sample(sample);
        }
        const uint32_t width = dtype == wire::DType::kIds ? 1 : sim::kWidth;
        size_t at = 0;
        wire::Bytes bytes = wire::encode_frame(header, {}, items, dtype, kStreams, width, &at);
        std::memset(bytes.data() + at, 0, bytes.size() - at);
        wire::seal_frame(bytes);
        return Message(std::move(bytes));
    }
    // Allocations of the frames behind the first ones, which make room.
    uint64_t run(uint8_t hop, wire::DType dtype) {
        constexpr uint32_t kWarm = 4;
        constexpr uint32_t kFrames = 200;
        std::vector<Message> frames;
        for (uint32_t i = 0; i < kFrames; ++i) frames.push_back(frame_at(i, hop, dtype));
        uint64_t before = 0;
        for (uint32_t i = 0; i < kFrames; ++i) {
            if (i == kWarm) before = allocations;
            worker->on_data(std::move(frames[i]), 1);
            while (worker->has_work()) {
                worker->run_unit(1);
                worker->unit_done(2);
            }
        }
        const uint64_t taken = allocations - before;
        CHECK(outbox.frames == kFrames);
        CHECK(stage->items_refused() == 0);
        return taken;
    }

    Nowhere outbox;
    sim::HashHead head;
    sim::HashStage stage_compute;
    std::unique_ptr<StageWorker> stage;
    std::unique_ptr<Sampler> sampler;
    std::unique_ptr<Worker> worker;
    uint64_t sequence = 0;
};

}  // namespace

TEST_CASE("a stage takes no memory for a frame") {
    Rig rig({{0, wire::kRoleStage, "next", kNext, false}}, wire::kRoleStage);
    CHECK(rig.run(0, wire::DType::kIds) == 0);
}

TEST_CASE("a sampler takes no memory for a frame") {
    Rig rig({{1, wire::kRoleSampler, "result", kRouter, false}}, wire::kRoleSampler);
    CHECK(rig.run(1, wire::DType::kF32) == 0);
}

TEST_CASE("a stage with its sampler takes no memory for a frame") {
    Rig rig({{0, wire::kRoleStage, "", kSelf, true},
             {1, wire::kRoleSampler, "result", kRouter, false}},
            wire::kRoleStage | wire::kRoleSampler);
    CHECK(rig.run(0, wire::DType::kIds) == 0);
}

// The router's part and the in-process bus: a frame and its items, the RESULT, a PIECE.
TEST_CASE("a whole cluster takes memory a bounded number of times a token") {
    constexpr uint64_t kPerToken = 50;
    sim::FakeText text;
    sim::HashHead head;
    sim::HashStage first(0, true, 64);
    sim::HashStage second(1, false, 64);
    LocalClusterConfig config;
    config.stages = {{&first, 0, 1}, {&second, 1, 2}};
    config.head = &head;
    config.hosted_sampler = true;
    config.kernels = kernel::find_kernels("reference", kernel::cpu_features());
    config.share = {8, 1u << 24, 8, 64};
    config.blocks_per_slot = 8;
    ClusterConfig& cluster = config.router.cluster;
    cluster.model_id = "hash";
    cluster.cut_id = "cut";
    cluster.layers = 2;
    cluster.width = sim::kWidth;
    cluster.vocab = sim::kVocab;
    config.router.context_length = 512;
    config.router.stop_ids = {0};
    config.router.client_silence_us = kNever;
    LocalCluster local(config, text, [](char, const std::string&, const std::string&) {});
    local.bus().attach("client", "", {});  // what it hears costs nothing here
    wire::Submit submit;
    submit.request_id = "r";
    submit.parameters.prompt = std::vector<uint32_t>{1, 2, 3};
    submit.parameters.max_tokens = 400;
    submit.parameters.ignore_eos = true;
    local.send("client", submit);

    TimeUs now = kSecondUs;
    const auto tokens = [&] { return local.router().counters().tokens_committed; };
    const auto run_until = [&](uint64_t count) {
        while (tokens() < count) {
            local.tick(now);
            if (!local.step([](size_t) { return size_t{0}; }, [&] { return now; })) now += 1000;
            REQUIRE(now < 20 * kSecondUs);
        }
    };
    run_until(100);
    const uint64_t before = allocations;
    run_until(300);
    const uint64_t per_token = (allocations - before) / 200;
    MESSAGE("allocations a token: " << per_token);
    CHECK(per_token <= kPerToken);
}
