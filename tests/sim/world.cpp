#include "world.hpp"

#include <algorithm>

namespace chatloop::sim {

namespace {

constexpr uint32_t kBlocks = 24;
constexpr uint32_t kBlocksLeast = 4;  // the longest request fits
constexpr uint64_t kStepsMax = 2'000'000;

}  // namespace

World::World(uint64_t seed, Mistake mistake)
    : mistake_(mistake), random_(seed), text_(mistake), head_(mistake) {
    build(seed);
    add_requests();
}

void World::build(uint64_t seed) {
    stages_ = 1 + random_.below(4);
    LocalClusterConfig config;
    for (uint32_t i = 0; i < stages_; ++i) {
        stage_computes_.push_back(std::make_unique<HashStage>(i, i == 0, kBlocks, mistake_));
        config.stages.push_back({stage_computes_.back().get(), i, i + 1});
    }
    ClusterConfig& cluster = config.router.cluster;
    cluster.model_id = "hash";
    cluster.cut_id = "cut";
    cluster.fingerprint = 42;
    cluster.layers = stages_;
    cluster.width = kWidth;
    cluster.vocab = kVocab;
    config.router.model_name = "hash";
    config.router.context_length = 256;
    config.router.stop_ids = {0};
    config.router.seed = seed;
    config.router.max_batch_size = 1 + random_.below(8);
    config.router.prefill_rows = 1 + random_.below(80);
    config.router.frames_in_flight = random_.one_in(2) ? 0 : 1 + random_.below(5);
    config.router.prefill_slice_us = 1 + random_.below(30'000);
    config.router.batching_window_us = random_.below(3) * kMillisecondUs;
    config.router.max_sequences = random_.below(6);
    config.router.kv_headroom_tokens = random_.below(70);
    config.router.prefix_cache = !random_.one_in(5);
    config.head = &head_;
    config.kernels = kernel::find_kernels("reference", kernel::cpu_features());
    config.hosted_sampler = random_.one_in(2);
    config.share.frames = 2 + random_.below(6);
    config.share.bytes = uint64_t{1 + random_.below(6)} << 20;
    config.share.slots = 1 + random_.below(6);
    config.share.blocks = random_.one_in(2) ? kBlocks : kBlocksLeast + random_.below(4);
    config.blocks_per_slot = 8;
    cluster_ = std::make_unique<LocalCluster>(config, text_, [](char, const std::string&,
                                                                const std::string&) {});
}

void World::add_requests() {
    const uint32_t clients = 1 + random_.below(4);
    for (uint32_t c = 0; c < clients; ++c) {
        const std::string name = "client-" + std::to_string(c);
        cluster_->attach_client(name, [this, name](const wire::RouterBody& body, TimeUs) {
            hear(name, body);
        });
    }
    const uint32_t count = 3 + random_.below(12);
    for (uint32_t i = 0; i < count; ++i) {
        SimRequest request = make_request(i);
        request.client = "client-" + std::to_string(random_.below(clients));
        expect(request, stages_);
        if (request.submit.parameters.max_tokens > 0 && random_.one_in(5)) {  // begun elsewhere
            wire::Progress progress;
            progress.prompt_ids = std::get<std::vector<uint32_t>>(request.submit.parameters.prompt);
            for (SimChoice& choice : request.choices) {
                const auto count = static_cast<uint32_t>(choice.expected.size());
                choice.tokens.assign(choice.expected.begin(),
                                     choice.expected.begin() + random_.below(count + 1));
                progress.choices.push_back(choice.tokens);
            }
            progress.seed = *request.submit.parameters.seed;
            progress.fingerprint = "000000000000002a";
            request.resume = std::move(progress);
        }
        requests_.push_back(std::move(request));
    }
}

SimRequest World::make_request(uint32_t index) {
    SimRequest request;
    request.submit.request_id = "r" + std::to_string(index);
    wire::Parameters& p = request.submit.parameters;
    std::vector<uint32_t> prompt(1 + random_.below(random_.one_in(2) ? 180 : 30));
    for (uint32_t& id : prompt) id = 1 + random_.below(kVocab - 2);
    if (random_.one_in(2)) {  // prompts that begin alike, up to somewhere
        const size_t alike = std::min<size_t>(prompt.size(), 60 + random_.below(120));
        for (uint32_t i = 0; i < alike; ++i) prompt[i] = 1 + i % 50;
    }
    p.priority = static_cast<int32_t>(random_.below(3)) - 1;
    p.prompt = prompt;
    p.max_tokens = random_.one_in(8) ? 0 : 1 + random_.below(40);
    p.seed = random_.next();
    if (random_.one_in(2)) {
        p.temperature = 0.25f * static_cast<float>(1 + random_.below(8));
        if (random_.one_in(2)) p.top_k = 1 + random_.below(20);
        if (random_.one_in(2)) p.top_p = 0.9f;
        if (random_.one_in(3)) p.min_p = 0.05f;
    }
    if (random_.one_in(3)) p.stop = {std::string(1, static_cast<char>(33 + random_.below(90)))};
    if (random_.one_in(3)) p.logprobs = random_.below(4);
    if (random_.one_in(3) || p.max_tokens == 0) p.prompt_logprobs = random_.below(3);
    p.ignore_eos = random_.one_in(4);
    if (random_.one_in(3)) {
        p.repetition_penalty = 0.5f + 0.25f * static_cast<float>(random_.below(5));
        p.presence_penalty = 0.5f * static_cast<float>(random_.below(5)) - 1.0f;
        p.frequency_penalty = 0.25f * static_cast<float>(random_.below(5)) - 0.25f;
    }
    if (random_.one_in(3)) {
        for (uint32_t id = random_.below(20); id < kVocab; id += 1 + random_.below(30))
            p.logit_bias.push_back({id, static_cast<float>(random_.below(9)) - 4.0f});
    }
    if (random_.one_in(3)) p.stop_token_ids = {random_.below(kVocab), random_.below(kVocab)};
    if (random_.one_in(4))
        p.constraint = Constraint{ConstraintKind::kRegex, {std::to_string(random_.below(1000))}};
    if (random_.one_in(4)) p.n = 2 + random_.below(3);
    if (random_.one_in(3)) p.min_tokens = random_.below(p.max_tokens + 1);
    request.at = now_ + random_.below(400'000);
    if (random_.one_in(6)) request.cancel_at = request.at + random_.below(300'000);
    return request;
}

SimRequest* World::find(const std::string& client, const std::string& id) {
    for (SimRequest& request : requests_)
        if (request.client == client && request.submit.request_id == id) return &request;
    return nullptr;
}

void World::hear(const std::string& client, const wire::RouterBody& body) {
    const auto broken = [&](const std::string& what) {
        if (broken_.empty()) broken_ = what;
    };
    const auto request_of = [&](const std::string& id) -> SimRequest* {
        SimRequest* request = find(client, id);
        if (request == nullptr || request->done || request->failure) {
            broken("a message for " + id + ", which does not run");
            return nullptr;
        }
        return request;
    };
    if (const auto* accepted = std::get_if<wire::Accepted>(&body)) {
        if (SimRequest* r = request_of(accepted->request_id)) r->accepted = true;
    } else if (const auto* piece = std::get_if<wire::Piece>(&body)) {
        SimRequest* r = request_of(piece->request_id);
        if (r == nullptr) return;
        if (piece->choice >= r->choices.size()) return broken("a piece of no choice");
        SimChoice& choice = r->choices[piece->choice];
        if (piece->index != choice.tokens.size() || choice.done)
            broken("a piece out of order for " + piece->request_id);
        choice.tokens.insert(choice.tokens.end(), piece->token_ids.begin(),
                             piece->token_ids.end());
        choice.text += piece->text;
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&body)) {
        SimRequest* r = request_of(end->request_id);
        if (r == nullptr) return;
        const bool is_one_of_several =
            r->choices.size() > 1 && end->choice < r->choices.size();
        if (!is_one_of_several || r->choices[end->choice].done)
            return broken("the end of a choice that does not run");
        r->choices[end->choice].done = *end;
    } else if (const auto* prompt = std::get_if<wire::PromptPiece>(&body)) {
        SimRequest* r = request_of(prompt->request_id);
        if (r == nullptr) return;
        if (prompt->index != r->prompt.size()) broken("a prompt piece out of order");
        r->prompt.insert(r->prompt.end(), prompt->entries.begin(), prompt->entries.end());
    } else if (const auto* done = std::get_if<wire::Done>(&body)) {
        if (SimRequest* r = request_of(done->request_id)) r->done = *done;
    } else if (const auto* failure = std::get_if<wire::Failure>(&body)) {
        SimRequest* r = failure->request_id ? find(client, *failure->request_id) : nullptr;
        if (r == nullptr) return broken("an error for nobody: " + failure->message);
        // A cancel that came after the end is answered with an error of its own.
        if (!r->done && !r->failure) r->failure = *failure;
    }
}

void World::speak() {
    for (SimRequest& request : requests_) {
        if (!request.sent && now_ >= request.at) {
            request.sent = true;
            if (request.resume) {
                wire::Resume resume{request.submit.request_id, 1, request.submit.parameters,
                                    *request.resume};
                cluster_->send(request.client, resume);
            } else {
                cluster_->send(request.client, request.submit);
            }
        }
        if (request.sent && !request.cancel_sent && now_ >= request.cancel_at) {
            request.cancel_sent = true;
            cluster_->send(request.client, wire::Cancel{request.submit.request_id});
        }
    }
}

bool World::all_ended() const {
    return std::all_of(requests_.begin(), requests_.end(),
                       [](const SimRequest& r) { return r.done || r.failure; });
}

void World::run() {
    const auto choose = [this](size_t n) {
        return size_t{random_.below(static_cast<uint32_t>(n))};
    };
    const auto clock = [this] { return now_ += random_.below(200); };
    bool draining = false;
    while (steps_ < kStepsMax && broken_.empty()) {
        ++steps_;
        speak();
        cluster_->tick(now_);
        if (!draining && all_ended()) {
            draining = true;
            for (const auto& [generation, route] : cluster_->router().cluster().routes())
                pools_.push_back(route.kv);
            cluster_->router().drain(now_);
            for (size_t i = 0; i < cluster_->workers(); ++i) cluster_->worker(i).drain(now_);
        }
        if (cluster_->step(choose, clock)) continue;
        bool finished = cluster_->router().finished();
        for (size_t i = 0; i < cluster_->workers(); ++i)
            finished = finished && cluster_->worker(i).finished();
        if (finished) return;
        now_ += 1000;  // nothing can happen until a timer is due
    }
    if (broken_.empty()) broken_ = "it does not end";
}

std::string World::check_choice(const SimRequest& r, const SimChoice& choice) const {
    const bool cancelled = r.done->finish_reason == "cancelled";
    const bool prefix = choice.tokens.size() <= choice.expected.size() &&
                        std::equal(choice.tokens.begin(), choice.tokens.end(),
                                   choice.expected.begin());
    if (!prefix || (!cancelled && choice.tokens != choice.expected)) return " has other tokens";
    if (!cancelled && !r.resume && choice.text != choice.expected_text)
        return " has another text";
    if (!cancelled && choice.done.has_value() != (r.choices.size() > 1)) return " has no end";
    if (!choice.done) return {};
    if (choice.done->finish_reason != choice.expected_reason) return " ended for another reason";
    if (choice.done->completion_tokens != choice.expected.size()) return " counts other tokens";
    return {};
}

std::string World::check() const {
    if (!broken_.empty()) return broken_;
    for (const SimRequest& r : requests_) {
        const std::string& id = r.submit.request_id;
        const auto& prompt = std::get<std::vector<uint32_t>>(r.submit.parameters.prompt);
        if (r.failure) return id + " failed: " + r.failure->message;
        const bool cancelled = r.done->finish_reason == "cancelled";
        if (cancelled && !r.cancel_sent) return id + " was cancelled by nobody";
        uint32_t completion_tokens = 0;
        for (const SimChoice& choice : r.choices) {
            if (const std::string wrong = check_choice(r, choice); !wrong.empty())
                return id + ": choice " + std::to_string(&choice - r.choices.data()) + wrong;
            completion_tokens += static_cast<uint32_t>(choice.expected.size());
        }
        if (cancelled) continue;
        if (r.done->finish_reason != r.choices[0].expected_reason)
            return id + " ended for another reason";
        if (r.done->completion_tokens != completion_tokens) return id + " counts other tokens";
        // Whoever has the whole answer has had these before.
        const bool had_all = r.resume && r.resume->choices[0] == r.choices[0].expected;
        if (r.submit.parameters.prompt_logprobs && !had_all && r.prompt.size() != prompt.size())
            return id + " misses prompt log-probabilities";
    }
    const Router& router = cluster_->router();
    if (router.running() != 0 || router.waiting() != 0) return "the router still holds requests";
    for (const auto& pool : pools_)
        if (pool->free_blocks() != pool->block_count() || pool->free_slots() != pool->slot_count())
            return "a slot or block did not return to its pool";
    if (router.counters().results_bad != 0) return "a RESULT was bad";
    if (router.counters().routes_down != 0) return "a route went down without a fault";
    for (size_t i = 0; i < cluster_->workers(); ++i) {
        const wire::WorkerCounters& c = cluster_->worker(i).counters();
        if (c.frames_gap + c.frames_duplicate + c.headers_bad + c.control_bad != 0)
            return "a worker saw a frame or message that must not be";
    }
    return {};
}

}  // namespace chatloop::sim
