// Who gives way: single decisions, and what follows when they are applied until nothing changes.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "chatloop/router/admission_queue.hpp"
#include "chatloop/router/preemption.hpp"

using namespace chatloop;

namespace {

using Runs = std::vector<Running>;

struct Start {
    char client = 'a';
    int32_t priority = 0;
};

std::ostream& operator<<(std::ostream& out, const Start& start) {
    return out << start.client << start.priority;
}

rc::Gen<std::vector<Start>> any_starts(int size) {
    const auto one = rc::gen::build<Start>(
        rc::gen::set(&Start::client, rc::gen::element('a', 'a', 'a', 'b', 'b', 'c', 'd', 'e')),
        rc::gen::set(&Start::priority, rc::gen::element(0, 0, 0, 0, -1, 3)));
    return rc::gen::resize(size, rc::gen::container<std::vector<Start>>(one));
}

const std::string& name_of(char client) {
    static const std::vector<std::string> names = {"a", "b", "c", "d", "e"};
    return names[client - 'a'];
}

// The oldest of the highest priority.
SequenceId first_of(const Runs& running) {
    return std::max_element(running.begin(), running.end(), [](const auto& a, const auto& b) {
        return std::pair(a.priority, -int64_t(a.admission)) <
               std::pair(b.priority, -int64_t(b.admission));
    })->id;
}

const Running& find(const Runs& running, SequenceId id) {
    return *std::find_if(running.begin(), running.end(),
                         [&](const Running& sequence) { return sequence.id == id; });
}

std::optional<Claim> claim(const Runs& running, uint32_t places,
                           const std::vector<Waiting>& waiting) {
    std::vector<const Waiting*> heads;
    for (const Waiting& sequence : waiting) heads.push_back(&sequence);
    return beyond_share(running, places, heads);
}

// A router of one route: whoever is next runs when there is a place, else who has a claim.
class Route {
public:
    Route(uint32_t places, const std::vector<Start>& starts, bool all_at_once) : places_(places) {
        for (const Start& start : starts) {
            queue_.push({++last_, name_of(start.client), start.priority, 100 * last_});
            if (!all_at_once) settle();
        }
        settle();
    }

    // Every step is a place that changes hands; it ends.
    void settle() {
        std::set<std::pair<std::string_view, std::string_view>> gave;
        for (uint32_t steps = 0;; ++steps) {
            admit();
            const auto now = beyond_share(running_, places_, queue_.heads());
            if (!now) return;
            RC_ASSERT(steps < places_);
            const Running victim = find(running_, now->victim);
            const Waiting claimant = queue_.sequences().at(now->claimant);
            RC_ASSERT(now->victim != first_of(running_));
            RC_ASSERT(victim.priority <= claimant.priority);
            gave.emplace(victim.client, claimant.client);
            for (const auto& [from, to] : gave) RC_ASSERT(to != victim.client);
            queue_.promote(now->claimant);
            std::erase_if(running_, [&](const Running& r) { return r.id == now->victim; });
            queue_.push_front({victim.id, std::string(victim.client), victim.priority, 0});
            if (claimant.priority == queue_.heads().front()->priority)
                RC_ASSERT(queue_.next() == now->claimant);
        }
    }

    void check_shares() const {
        if (queue_.size() == 0) return;
        std::map<std::string_view, uint32_t> counts;
        for (const Waiting* head : queue_.heads()) counts[head->client];
        for (const Running& sequence : running_) ++counts[sequence.client];
        const uint32_t share = std::max<uint32_t>(1, places_ / uint32_t(counts.size()));
        for (const Waiting* head : queue_.heads()) {
            RC_ASSERT(running_.size() == places_);
            if (counts.at(head->client) >= share) continue;
            for (const Running& sequence : running_)
                RC_ASSERT((sequence.priority > head->priority ||
                           counts.at(sequence.client) <= share));
        }
    }

private:
    void admit() {
        while (running_.size() < places_) {
            const auto id = queue_.next();
            if (!id) return;
            const Waiting& next = queue_.sequences().at(*id);
            running_.push_back({next.id, name_of(next.client[0]), next.priority, ++admissions_});
            queue_.admit(*id);
        }
    }

    uint32_t places_;
    AdmissionQueue queue_;
    Runs running_;
    SequenceId last_ = 0;
    Admission admissions_ = 0;
};

}  // namespace

TEST_CASE("blocks are short: the lowest priority gives way, the latest of it") {
    CHECK_FALSE(least_important({}));
    CHECK_FALSE(least_important(Runs{{1, "a", 0, 1}}));
    CHECK(least_important(Runs{{1, "a", 0, 1}, {2, "a", 0, 2}}) == 2);
    CHECK(least_important(Runs{{1, "a", 0, 9}, {2, "a", 0, 2}}) == 1);
    CHECK(least_important(Runs{{1, "a", -3, 1}, {2, "a", 0, 2}, {3, "b", -3, 2}}) == 3);
    CHECK(least_important(Runs{{1, "a", INT32_MIN, 1}, {2, "a", INT32_MAX, 2}}) == 1);
}

TEST_CASE("whoever is left in the end is the oldest of the highest priority") {
    CHECK(rc::check([] {
        const auto starts = *any_starts(40);
        Runs running;
        for (const Start& start : starts)
            running.push_back({running.size(), name_of(start.client), start.priority,
                               running.size()});
        RC_PRE(!running.empty());
        const SequenceId first = first_of(running);
        while (const auto victim = least_important(running)) {
            const Running gone = find(running, *victim);
            std::erase_if(running, [&](const Running& r) { return r.id == *victim; });
            for (const Running& sequence : running)
                RC_ASSERT((gone.priority < sequence.priority ||
                           (gone.priority == sequence.priority &&
                            gone.admission > sequence.admission)));
        }
        RC_ASSERT(running.size() == 1u);
        RC_ASSERT(running[0].id == first);
    }));
}

TEST_CASE("fair share: the latest of the client with the most gives way") {
    const Runs four = {{1, "a", 0, 1}, {2, "a", 0, 2}, {3, "a", 0, 3}, {4, "b", 0, 4}};
    const auto found = claim(four, 4, {{9, "b", 0, 1}});
    REQUIRE(found);
    CHECK(found->victim == 3);
    CHECK(found->claimant == 9);
    CHECK_FALSE(claim(four, 5, {{9, "b", 0, 1}}));   // a place is free
    CHECK_FALSE(claim(four, 4, {{9, "a", 0, 1}}));   // has more than its share
    CHECK_FALSE(claim(four, 4, {{9, "b", -1, 1}}));  // is less important
    CHECK_FALSE(claim(four, 4, {}));
    CHECK(claim(four, 4, {{9, "c", 0, 1}})->victim == 3);
    CHECK(claim(four, 4, {{8, "a", 0, 1}, {9, "c", 0, 1}})->claimant == 9);
    Runs seven = four;
    for (SequenceId id = 5; id <= 7; ++id) seven.push_back({id, id == 5 ? "a" : "b", 0, id});
    CHECK(claim(seven, 7, {{9, "c", 0, 1}})->victim == 5);  // the fourth of a, not the third of b
}

TEST_CASE("fair share: nobody gives for what would go back") {
    // Three places, two clients: two of one and one of the other is as even as it gets.
    CHECK_FALSE(claim({{1, "a", 0, 1}, {2, "a", 0, 2}, {3, "b", 0, 3}}, 3, {{9, "b", 0, 1}}));
    // More clients than places: one each.
    const Runs two = {{1, "a", 0, 1}, {2, "b", 0, 2}};
    CHECK_FALSE(claim(two, 2, {{9, "c", 0, 1}}));
    CHECK(claim({{1, "a", 0, 1}, {2, "a", 0, 2}}, 2, {{8, "b", 0, 1}, {9, "c", 0, 1}}));
}

TEST_CASE("fair share: of a client, the least important goes, if it is no more than the claimant") {
    const Runs three = {{1, "a", 0, 1}, {2, "a", 0, 2}, {3, "a", 5, 3}};
    CHECK(claim(three, 3, {{9, "b", 0, 1}})->victim == 2);
    CHECK(claim(three, 3, {{9, "b", 5, 1}})->victim == 2);
    CHECK_FALSE(claim({{1, "a", 5, 1}, {2, "a", 5, 2}}, 2, {{9, "b", 0, 1}}));
}

TEST_CASE("fair share settles: no place goes back and forth, and nobody is left with a claim") {
    CHECK(rc::check([] {
        const auto places = *rc::gen::inRange(1u, 13u);
        const auto starts = *any_starts(60);
        for (const bool all_at_once : {true, false}) {
            Route route(places, starts, all_at_once);
            route.check_shares();
        }
    }));
}
