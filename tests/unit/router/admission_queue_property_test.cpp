// Random lives of the queue against deficit round robin as it is in the book, quantum by quantum.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <list>
#include <map>
#include <string>
#include <vector>

#include "chatloop/router/admission_queue.hpp"

using namespace chatloop;

namespace {

constexpr uint64_t kCostMax = 9 * kQuantumTokens;

struct Step {
    uint32_t kind = 0;
    uint32_t which = 0;
    char client = 'a';
    int32_t priority = 0;
    uint64_t cost = 0;
};

std::ostream& operator<<(std::ostream& out, const Step& step) {
    return out << step.kind << '/' << step.which << '/' << step.client << '/' << step.priority
               << '/' << step.cost;
}

rc::Gen<Step> any_step() {
    return rc::gen::build<Step>(
        rc::gen::set(&Step::kind, rc::gen::inRange(0u, 20u)),
        rc::gen::set(&Step::which, rc::gen::inRange(0u, 100u)),
        rc::gen::set(&Step::client, rc::gen::inRange('a', 'f')),
        rc::gen::set(&Step::priority, rc::gen::element(-1, 0, 0, 0, 0, 5)),
        rc::gen::set(&Step::cost, rc::gen::inRange(uint64_t{0}, kCostMax + 1)));
}

template <typename T>
rc::Gen<std::vector<T>> many(rc::Gen<T> one, int size) {
    return rc::gen::resize(size, rc::gen::container<std::vector<T>>(std::move(one)));
}

class Model {
public:
    void push(const Waiting& sequence, bool in_front) {
        auto& round = classes_[sequence.priority].round;
        auto client = find(round, sequence.client);
        if (client == round.end()) client = round.insert(client, {sequence.client, {}, 0});
        client->waiting.insert(in_front ? client->waiting.begin() : client->waiting.end(),
                               sequence);
    }

    std::optional<SequenceId> next() {
        if (size() == 0) return std::nullopt;
        Class& among = top();
        for (;;) {
            Client& head = among.round.front();
            if (!among.has_turn) head.saved += kQuantumTokens;
            among.has_turn = true;
            const auto cost = static_cast<int64_t>(head.waiting.front().cost);
            if (cost <= head.saved || among.promoted == head.waiting.front().id)
                return head.waiting.front().id;
            among.round.splice(among.round.end(), among.round, among.round.begin());
            among.has_turn = false;
            among.promoted = 0;
        }
    }

    void promote(SequenceId id) {
        Class& among = top();
        const auto client = std::find_if(
            among.round.begin(), among.round.end(),
            [&](const Client& other) { return other.waiting.front().id == id; });
        if (client != among.round.begin() && among.has_turn) {
            among.round.front().saved -= kQuantumTokens;
            among.has_turn = false;
        }
        among.round.splice(among.round.begin(), among.round, client);
        among.promoted = id;
    }

    void remove(SequenceId id, bool is_charged) {
        for (auto& [priority, among] : classes_) {
            for (auto client = among.round.begin(); client != among.round.end(); ++client) {
                const auto at = std::find_if(client->waiting.begin(), client->waiting.end(),
                                             [&](const Waiting& w) { return w.id == id; });
                if (at == client->waiting.end()) continue;
                if (is_charged) client->saved -= static_cast<int64_t>(at->cost);
                client->waiting.erase(at);
                if (!client->waiting.empty()) return;
                if (client == among.round.begin()) among.has_turn = false;
                among.round.erase(client);
                return;
            }
        }
    }

    void refund(const std::string& client, int32_t priority, uint64_t tokens) {
        auto& round = classes_[priority].round;
        if (const auto found = find(round, client); found != round.end())
            found->saved += static_cast<int64_t>(tokens);
    }

    std::vector<SequenceId> heads() {
        std::vector<SequenceId> ids;
        if (size() == 0) return ids;
        for (const Client& client : top().round) ids.push_back(client.waiting.front().id);
        return ids;
    }

    size_t size() const { return all().size(); }
    std::vector<Waiting> all() const {
        std::vector<Waiting> all;
        for (const auto& [priority, among] : classes_)
            for (const Client& client : among.round)
                all.insert(all.end(), client.waiting.begin(), client.waiting.end());
        return all;
    }

private:
    struct Client {
        std::string name;
        std::vector<Waiting> waiting;
        int64_t saved = 0;
    };
    struct Class {
        std::list<Client> round;
        bool has_turn = false;
        SequenceId promoted = 0;
    };
    static std::list<Client>::iterator find(std::list<Client>& round, const std::string& name) {
        return std::find_if(round.begin(), round.end(),
                            [&](const Client& client) { return client.name == name; });
    }
    Class& top() {
        auto among = classes_.rbegin();
        while (among->second.round.empty()) ++among;
        return among->second;
    }

    std::map<int32_t, Class> classes_;
};

class Pair {
public:
    void run(const Step& step) {
        const std::string client(1, step.client);
        if (step.kind < 8) return push({++last_, client, step.priority, step.cost}, false);
        if (step.kind < 9) return push({++last_, client, step.priority, 0}, true);
        if (step.kind < 14) return admit_next();
        if (step.kind < 15) return remove(any(step.which), true);
        if (step.kind < 17) return remove(any(step.which), false);
        if (step.kind < 18) {
            queue_.refund(client, step.priority, step.cost);
            return model_.refund(client, step.priority, step.cost);
        }
        if (step.kind < 19) {
            const std::vector<SequenceId> heads = model_.heads();
            if (heads.empty()) return;
            const SequenceId id = heads[step.which % heads.size()];
            queue_.promote(id);
            model_.promote(id);
            RC_ASSERT(queue_.next() == id);
        }
    }

    void check(bool with_next) {
        if (with_next) RC_ASSERT(queue_.next() == model_.next());
        const std::vector<Waiting> all = model_.all();
        RC_ASSERT(queue_.size() == all.size());
        uint64_t cost = 0;
        std::optional<SequenceId> oldest;
        for (const Waiting& sequence : all) {
            cost += sequence.cost;
            oldest = std::min(oldest.value_or(sequence.id), sequence.id);
            RC_ASSERT(queue_.sequences().at(sequence.id).client == sequence.client);
        }
        RC_ASSERT(queue_.cost() == cost);
        RC_ASSERT(queue_.oldest() == oldest);
        std::vector<SequenceId> heads;
        for (const Waiting* head : queue_.heads()) heads.push_back(head->id);
        RC_ASSERT(heads == model_.heads());
    }

    bool is_empty() const { return queue_.size() == 0; }
    void admit_next() {
        const std::optional<SequenceId> next = queue_.next();
        RC_ASSERT(next == model_.next());
        remove(next, true);
    }

private:
    void push(const Waiting& sequence, bool in_front) {
        model_.push(sequence, in_front);
        in_front ? queue_.push_front(sequence) : queue_.push(sequence);
    }

    void remove(std::optional<SequenceId> id, bool is_charged) {
        if (!id) return;
        model_.remove(*id, is_charged);
        if (is_charged) queue_.admit(*id);
        else RC_ASSERT(queue_.erase(*id));
    }

    std::optional<SequenceId> any(uint32_t which) const {
        const std::vector<Waiting> all = model_.all();
        if (all.empty()) return std::nullopt;
        return all[which % all.size()].id;
    }

    AdmissionQueue queue_;
    Model model_;
    SequenceId last_ = 0;
};

}  // namespace

TEST_CASE("the queue does what deficit round robin does") {
    CHECK(rc::check([] {
        Pair pair;
        const auto steps = *many(any_step(), 300);
        for (const Step& step : steps) {
            pair.run(step);
            pair.check(step.which % 2 == 0);
        }
        while (!pair.is_empty()) {
            pair.check(true);
            pair.admit_next();
        }
        pair.check(true);
    }));
}

TEST_CASE("clients that always have something queued get the same number of tokens") {
    CHECK(rc::check([] {
        const auto clients = *rc::gen::inRange(2u, 7u);
        const auto cost_max = *rc::gen::inRange(uint64_t{1}, kCostMax);
        const auto costs = *many(rc::gen::inRange(uint64_t{1}, cost_max + 1), 300);
        RC_PRE(costs.size() > 2 * clients);
        AdmissionQueue queue;
        std::map<std::string, uint64_t> served;
        const auto push = [&](size_t i, std::string client) {
            queue.push({i, std::move(client), 0, costs[i]});
        };
        for (uint32_t i = 0; i < 2 * clients; ++i) {
            const std::string client = "client " + std::to_string(i % clients);
            served[client] = 0;
            push(i, client);
        }
        for (size_t i = 2 * clients; i < costs.size(); ++i) {
            const Waiting next = queue.sequences().at(*queue.next());
            push(i, next.client);
            queue.admit(next.id);
            served[next.client] += next.cost;
            const auto [least, most] = std::minmax_element(
                served.begin(), served.end(),
                [](const auto& a, const auto& b) { return a.second < b.second; });
            RC_ASSERT(most->second - least->second <= kQuantumTokens + cost_max);
        }
    }));
}

TEST_CASE("nobody waits for ever while others of the same priority keep coming") {
    CHECK(rc::check([] {
        const auto cost = *rc::gen::inRange(uint64_t{1}, kCostMax);
        const auto others = *rc::gen::inRange(1u, 20u);
        const auto seed = *rc::gen::arbitrary<uint64_t>();
        uint64_t state = seed;
        const auto draw = [&](uint64_t below) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            return (state >> 33) % below;
        };
        AdmissionQueue queue;
        SequenceId last = 0;
        // Known clients and new ones in turn, as dear as they are cheap.
        const auto arrive = [&] {
            const std::string client = draw(2) == 0 ? std::to_string(draw(5))
                                                    : "new " + std::to_string(last);
            queue.push({++last, client, 0, 1 + draw(2 * kQuantumTokens)});
        };
        while (last < others) arrive();
        const SequenceId patient = ++last;
        queue.push({patient, "patient", 0, cost});
        // A turn of each of the others in each of its rounds, of at most so many sequences.
        const uint64_t rounds = (cost + kQuantumTokens - 1) / kQuantumTokens;
        uint64_t left = 4 * (rounds + 1) * (others + 1);
        while (*queue.next() != patient) {
            RC_ASSERT(left-- > 0);
            queue.admit(*queue.next());
            arrive();
        }
    }));
}
