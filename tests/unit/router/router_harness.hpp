// A Router over fake workers, one a layer, the last of them the sampler too. They answer a frame
// when and how the test says.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/router/router.hpp"
#include "cluster_harness.hpp"
#include "fake_text.hpp"

namespace chatloop::test {

inline constexpr Incarnation kWorker = 10;  // the first one; the others follow
inline constexpr char kClient[] = "client-1";

// What the fake sampler answers behind `position`; never an end token.
inline uint32_t token_at(uint32_t position) { return 1 + (position * 7 + 3) % 90; }

struct SentFrame {
    wire::Bytes bytes;
    wire::DataFrame frame;
};

class RouterHarness {
public:
    explicit RouterHarness(wire::Share share = {4, 16u << 20, 4, 16}, uint32_t max_queue_size = 512,
                           uint32_t stages = 1)
        : share_(share), stages_(stages) {
        config.cluster = cluster_config(stages);
        config.model_name = "hash";
        config.context_length = 256;
        config.stop_ids = {0};
        config.max_batch_size = 4;
        config.prefill_rows = 100;
        config.prefill_slice_us = kSecondUs;  // no test's prompt is so long
        config.max_queue_size = max_queue_size;
        remake();
    }
    // The router of a changed `config`.
    void remake() {
        router = std::make_unique<Router>(
            config, outbox, text_, [this](char level, const std::string& text, const LogSpan&) {
                log.push_back(std::string(1, level) + " " + text);
            });
    }

    void hear(wire::ControlBody body, Incarnation from = kWorker) {
        const wire::Control message{from, ++sequence_, std::move(body)};
        router->on_control(peer_of(from), wire::encode_control(message), now);
    }
    // Workers and route; the generation.
    Generation bring_up() {
        for (uint32_t i = 0; i < stages_; ++i) {
            const bool last = i + 1 == stages_;
            const auto roles = wire::kRoleStage | (last ? wire::kRoleSampler : 0);
            hear(hello_of(config.cluster, {kWorker + i, "worker-" + std::to_string(i + 1),
                                           static_cast<uint8_t>(roles), i, i + 1, share_}),
                 kWorker + i);
            hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, {}, {}}, kWorker + i);
        }
        return form();
    }
    // The route that the workers form, also after a fault: they hold what they held.
    Generation form() {
        tick(200 * kMillisecondUs);
        REQUIRE(!router->cluster().routes().empty());
        const Route& route = router->cluster().routes().rbegin()->second;
        const Generation generation = route.generation;
        router->on_link(route.link, true, now);
        for (uint32_t i = 0; i < stages_; ++i) hear(wire::Ready{generation}, kWorker + i);
        REQUIRE(router->ready());
        return generation;
    }
    // A fault of the newest route, and its successor; frames of before are not answered any more.
    Generation fault_and_form() {
        const Route& route = router->cluster().routes().rbegin()->second;
        router->on_link(route.link, false, now);
        answered = frames();
        beat();
        return form();
    }
    // The workers are well: what keeps them from being taken for dead.
    void beat() {
        for (uint32_t i = 0; i < stages_; ++i) {
            std::vector<wire::RouteReport> routes;
            for (const auto& [generation, route] : router->cluster().routes())
                for (size_t hop = 0; hop < route.hops.size(); ++hop)
                    if (route.hops[hop] == kWorker + i)
                        routes.push_back({generation, static_cast<uint8_t>(hop), route.sent,
                                          route.answered, true, true});
            hear(wire::WorkerHeartbeat{wire::WorkerState::kReady, 0, 0, 0, std::move(routes), {}},
                 kWorker + i);
        }
    }
    // In steps of a heartbeat: after a longer gap a router judges nobody.
    void tick(TimeUs later = 0) {
        const TimeUs until = now + later;
        do {
            now = std::min(until, now + 200 * kMillisecondUs);
            router->on_tick(now);
        } while (now < until);
    }
    void say(const wire::ClientBody& body, const std::string& client = kClient) {
        router->on_client(client, wire::encode_client(body), now);
        while (router->has_work()) router->run_unit(now);
    }
    static wire::Parameters ask(uint32_t prompt_count, uint32_t max_tokens) {
        wire::Parameters parameters;
        parameters.prompt = std::vector<uint32_t>(prompt_count, 5);
        parameters.max_tokens = max_tokens;
        return parameters;
    }
    void submit(const std::string& id, uint32_t prompt_count, uint32_t max_tokens) {
        say(wire::Submit{id, ask(prompt_count, max_tokens)});
    }

    size_t frames() const { return outbox.data.size(); }
    SentFrame frame(size_t index) const {
        REQUIRE(index < outbox.data.size());
        SentFrame sent{outbox.data[index].bytes, {}};
        const auto header = wire::decode_header(sent.bytes);
        REQUIRE(header.ok());
        auto decoded = wire::decode_frame(*header, sent.bytes);
        REQUIRE(std::holds_alternative<wire::DataFrame>(decoded));
        sent.frame = std::get<wire::DataFrame>(std::move(decoded));
        return sent;
    }
    // The RESULT that a sampler owes for the frame.
    wire::ResultFrame result_of(size_t index) const {
        const SentFrame sent = frame(index);
        wire::ResultFrame result;
        result.header = sent.frame.header;
        result.header.type = wire::kFrameResult;
        result.header.hop = static_cast<uint8_t>(stages_ + 1);
        result.header.destination = kRouter;
        for (const wire::Item& item : sent.frame.items) {
            wire::ResultItem answer{item.slot, item.admission, wire::ItemError::kNone, {}};
            std::optional<wire::Sample> sample;
            if (!item.outputs.empty()) {
                auto decoded = wire::decode_sample(item.sample, item.outputs.size());
                REQUIRE(decoded.ok());
                sample = *decoded;
            }
            for (size_t i = 0; i < item.outputs.size(); ++i) {
                const uint32_t row = item.outputs[i];
                const bool target = sample->targets && (*sample->targets)[i];
                answer.outputs.push_back({row, static_cast<uint8_t>(target ? 2 : 1),
                                          target ? *(*sample->targets)[i]
                                                 : token_at(item.position + row),
                                          -1.0f, {{7, -0.5f}, {8, -2.0f}}});
            }
            result.items.push_back(std::move(answer));
        }
        return result;
    }
    void answer(const wire::ResultFrame& result) { answer_bytes(wire::encode_result(result)); }
    void answer_bytes(wire::Bytes bytes) { router->on_result(Message(std::move(bytes)), now); }
    // Answers frame after frame until there is none left.
    void answer_all() {
        for (; answered < frames(); ++answered) {
            REQUIRE(answered < 10'000);
            answer(result_of(answered));
        }
    }
    template <class T>
    std::vector<T> heard(const std::string& client = kClient) const {
        return outbox.heard<T>(client);
    }
    std::vector<uint32_t> tokens(const std::string& id) const {
        std::vector<uint32_t> all;
        for (const wire::Piece& piece : heard<wire::Piece>())
            if (piece.request_id == id)
                all.insert(all.end(), piece.token_ids.begin(), piece.token_ids.end());
        return all;
    }
    std::vector<std::string> errors() const {
        std::vector<std::string> codes;
        for (const wire::Failure& failure : heard<wire::Failure>()) codes.push_back(failure.code);
        return codes;
    }
    uint32_t free_blocks() const {
        return router->cluster().routes().begin()->second.kv->free_blocks();
    }
    uint32_t free_slots() const {
        return router->cluster().routes().begin()->second.kv->free_slots();
    }

    RouterConfig config;
    FakeOutbox outbox;
    TimeUs now = kSecondUs;
    std::unique_ptr<Router> router;
    size_t answered = 0;
    std::vector<std::string> log;  // level and text

private:
    sim::FakeText text_;
    wire::Share share_;
    uint32_t stages_;
    uint64_t sequence_ = 0;
};

struct UpRouter : RouterHarness {
    explicit UpRouter(wire::Share share = {4, 16u << 20, 4, 16}, uint32_t max_queue_size = 512,
                      uint32_t stages = 1)
        : RouterHarness(share, max_queue_size, stages) {
        bring_up();
    }
};

// Eight streams on two stages, with a window of 2 ms.
struct WindowedRouter : RouterHarness {
    WindowedRouter() : RouterHarness({8, 64u << 20, 16, 128}, 512, 2) {
        config.batching_window_us = 2 * kMillisecondUs;
        config.max_batch_size = 32;
        remake();
        bring_up();
    }
    size_t in_flight() const { return frames() - answered; }
    void answer_next() { answer(result_of(answered++)); }
    // Two frames of four rows leave at the same time; of the first two streams end, and it comes
    // back `since_sent` later. True: what is left of it waits for the other.
    bool holds(TimeUs since_sent) {
        for (const char* id : {"a", "b", "c", "d", "e", "f", "g", "i"}) submit(id, 1, 100);
        for (int i = 0; i < 20; ++i) answer_next();
        REQUIRE(in_flight() == 2);
        std::vector<std::string> gone;
        for (const wire::Piece& piece : heard<wire::Piece>()) gone.push_back(piece.request_id);
        // The last to hear of a token are in the frame that was sent last; of the other two end.
        for (const std::string& id : {gone[gone.size() - 8], gone[gone.size() - 7]})
            say(wire::Cancel{id});
        now += since_sent;
        answer_next();
        return in_flight() < 2;
    }
};

}  // namespace chatloop::test
