// A Worker between a fake outbox and fake executors, with the router's side of the talk in one line
// each.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/core/limits.hpp"
#include "chatloop/worker/worker.hpp"
#include "support/fake_outbox.hpp"

namespace chatloop::test {

inline constexpr Incarnation kSelf = 77;
inline constexpr Incarnation kNext = 88;
inline constexpr Incarnation kRouterA = 1001;
inline constexpr Incarnation kRouterB = 1002;

// Needs `units` units a frame and passes the frame on unchanged (a stage) or answers with a RESULT.
class FakeExecutor final : public FrameExecutor {
public:
    FakeExecutor(char name, std::string* trace) : name_(name), trace_(trace) {}

    void begin(size_t share, FrameInHand& in_hand) override {
        CHECK(in_hand_ == nullptr);
        in_hand_ = &in_hand;
        units_left_ = units;
        begun.emplace_back(share, in_hand.frame.header.number);
    }
    bool run_unit() override {
        REQUIRE(in_hand_ != nullptr);
        trace_->push_back(name_);
        trace_->append(std::to_string(in_hand_->frame.header.number));
        return --units_left_ == 0;
    }
    void finish(const wire::FrameHeader& header, std::span<const wire::HopTiming> timings,
                wire::Bytes& bytes) override {
        const wire::DataFrame& frame = in_hand_->frame;
        in_hand_ = nullptr;
        if (header.type == wire::kFrameResult) {
            wire::ResultFrame result;
            result.header = header;
            result.timings.assign(timings.begin(), timings.end());
            for (const wire::Item& item : frame.items)
                result.items.push_back({item.slot, item.admission, wire::ItemError::kNone, {}});
            return wire::encode_result(result, bytes);
        }
        size_t at = 0;
        wire::encode_frame(header, timings, frame.items, frame.dtype, frame.rows, frame.width,
                           bytes, &at);
        std::memcpy(bytes.data() + at, frame.payload.data(), frame.payload.size());
        wire::seal_frame(bytes);
    }
    void abandon() override {
        REQUIRE(in_hand_ != nullptr);
        in_hand_ = nullptr;
        ++abandoned;
    }
    void forget(size_t share) override { forgotten.push_back(share); }

    int units = 1;
    int abandoned = 0;
    std::vector<size_t> forgotten;
    std::vector<std::pair<size_t, FrameNumber>> begun;  // share, number

private:
    char name_;
    std::string* trace_;
    FrameInHand* in_hand_ = nullptr;
    int units_left_ = 0;
};

struct FrameSpec {
    Incarnation router = kRouterA;
    Generation generation = 1;
    FrameNumber number = 1;
    uint8_t hop = 0;
    Incarnation destination = kSelf;
    uint32_t budget_ms = 0;
};

// One item of one row of width 1.
inline wire::Bytes make_frame(const FrameSpec& spec) {
    const wire::FrameHeader header{wire::kFrameData, spec.router,      spec.generation, spec.number,
                                   spec.hop,         spec.destination, spec.budget_ms};
    wire::Item item;
    item.slot = 3;
    item.admission = 9;
    item.rows = 1;
    item.flags = wire::kItemFirst;
    item.blocks = {0};
    size_t at = 0;
    wire::Bytes bytes =
        wire::encode_frame(header, {}, std::span(&item, 1), wire::DType::kF32, 1, 1, &at);
    wire::seal_frame(bytes);
    return bytes;
}

class WorkerHarness {
public:
    explicit WorkerHarness(bool with_stage = true, bool with_sampler = false,
                           std::vector<std::string> routers = {"router-a"})
        : stage('S', &trace), sampler('H', &trace) {
        WorkerConfig config;
        config.incarnation = kSelf;
        config.routers = std::move(routers);
        config.hello.name = "worker";
        config.hello.endpoint = "here";
        config.hello.roles = static_cast<uint8_t>((with_stage ? wire::kRoleStage : 0) |
                                                  (with_sampler ? wire::kRoleSampler : 0));
        config.hello.layer_end = config.hello.layers = 1;
        config.hello.width = config.hello.vocab = 1;
        config.hello.share = {4, 1u << 20, 4, 4};
        worker = std::make_unique<Worker>(config, outbox, with_stage ? &stage : nullptr,
                                          with_sampler ? &sampler : nullptr);
    }

    void hear(Incarnation router, wire::ControlBody body, const std::string& peer = "router-a") {
        const wire::Control message{router, ++sequence_, std::move(body)};
        worker->on_control(peer, wire::encode_control(message), now);
    }
    void welcome(Incarnation router = kRouterA, const std::string& peer = "router-a") {
        hear(router, wire::Welcome{kSelf, "r", 200, 4, "result"}, peer);
    }
    // Member of router A, ready, with a route of generation 1 that leads from stage 0 to kNext.
    void install(Generation generation = 1) {
        hear(kRouterA, stage_route(generation));
        link_up("next");
    }
    static wire::Route stage_route(Generation generation, Generation fences = 0) {
        return {generation, fences, 4, 4, {{0, wire::kRoleStage, "next", kNext, false}}};
    }
    // Stage 0 and the sampler are both this process.
    static wire::Route both_route(Generation generation, Incarnation router) {
        return {generation, 0, 4, 4,
                {{0, wire::kRoleStage, "", kSelf, true},
                 {1, wire::kRoleSampler, "result", router, false}}};
    }
    void link_up(const std::string& endpoint) {
        for (const auto& [id, to] : std::map<LinkId, std::string>(outbox.open))
            if (to == endpoint) worker->on_link(id, true, now);
    }
    void join() {
        worker->set_ready(now);
        worker->on_tick(now);
        welcome();
    }
    // After the worker has forgotten the router.
    void join_again() {
        welcome();
        install();
    }
    void data(const FrameSpec& spec) { raw(make_frame(spec)); }
    void raw(wire::Bytes bytes) { worker->on_data(Message(std::move(bytes)), now); }
    void unit() {
        worker->run_unit(now);
        worker->unit_done(now);
    }
    void run() {
        for (int i = 0; worker->has_work(); ++i) {
            REQUIRE(i < 1000);
            unit();
        }
    }
    const wire::WorkerCounters& counters() const { return worker->counters(); }

    TimeUs now = kSecondUs;
    std::string trace;  // who ran a unit of which frame, e.g. "S1S1H1"
    FakeOutbox outbox;
    FakeExecutor stage;
    FakeExecutor sampler;
    std::unique_ptr<Worker> worker;

private:
    uint64_t sequence_ = 0;
};

// Member of router A with route 1 installed.
struct InstalledStage : WorkerHarness {
    InstalledStage() {
        join();
        install();
    }
};

}  // namespace chatloop::test
