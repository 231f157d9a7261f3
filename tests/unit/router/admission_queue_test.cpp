// Who is admitted next: priorities, turns of clients, their own order.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "chatloop/router/admission_queue.hpp"

using namespace chatloop;

namespace {

constexpr uint64_t kQuantum = kQuantumTokens;

std::vector<SequenceId> admit_all(AdmissionQueue& queue) {
    std::vector<SequenceId> order;
    while (const auto next = queue.next()) {
        order.push_back(*next);
        queue.admit(*next);
    }
    return order;
}

using Order = std::vector<SequenceId>;

}  // namespace

TEST_CASE("an empty queue has no next, and erase says so") {
    AdmissionQueue queue;
    CHECK_FALSE(queue.next());
    CHECK_FALSE(queue.oldest());
    CHECK(queue.heads().empty());
    CHECK_FALSE(queue.erase(1));
    queue.refund("a", 0, 5);
    CHECK(queue.size() == 0);
    CHECK(queue.cost() == 0);
}

TEST_CASE("one client's sequences keep their order, whatever they cost") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, 50 * kQuantum});
    queue.push({2, "a", 0, 1});
    queue.push({3, "a", 0, 7 * kQuantum});
    CHECK(queue.cost() == 57 * kQuantum + 1);
    CHECK(queue.oldest() == 1);
    CHECK(admit_all(queue) == Order{1, 2, 3});
    CHECK(queue.cost() == 0);
}

TEST_CASE("the higher priority first, strictly") {
    AdmissionQueue queue;
    queue.push({1, "a", -1, 1});
    queue.push({2, "a", 0, 1});
    queue.push({3, "b", 7, 100 * kQuantum});
    queue.push({4, "a", 7, 101 * kQuantum});
    CHECK(queue.heads().size() == 2);
    CHECK(admit_all(queue) == Order{3, 4, 2, 1});
}

TEST_CASE("clients take turns") {
    AdmissionQueue queue;
    for (SequenceId id = 1; id <= 3; ++id) queue.push({id, "a", 0, kQuantum});
    for (SequenceId id = 11; id <= 13; ++id) queue.push({id, "b", 0, kQuantum});
    queue.push({21, "c", 0, kQuantum});
    CHECK(admit_all(queue) == Order{1, 11, 21, 2, 12, 3, 13});
}

TEST_CASE("turns are measured in tokens") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, 2 * kQuantum});
    queue.push({2, "a", 0, 2 * kQuantum});
    for (SequenceId id = 11; id <= 18; ++id) queue.push({id, "b", 0, kQuantum / 2});
    CHECK(admit_all(queue) == Order{11, 12, 1, 13, 14, 15, 16, 2, 17, 18});
}

TEST_CASE("whose turn it is does not change when others come") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, 90 * kQuantum});
    queue.push({2, "b", 0, 80 * kQuantum});
    CHECK(queue.next() == 2);
    queue.push({3, "c", 0, 1});
    queue.push_front({4, "a", 0, 0});
    CHECK(queue.next() == 2);
    queue.push({5, "d", 1, 1});  // of a higher priority: meanwhile
    CHECK(queue.next() == 5);
    queue.admit(5);
    CHECK(queue.next() == 2);
}

TEST_CASE("a preempted sequence goes before its client's others and is not charged again") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, kQuantum});
    queue.push({2, "a", 0, kQuantum});
    queue.push({3, "b", 0, kQuantum});
    queue.push_front({10, "a", 0, 1000 * kQuantum});
    CHECK(queue.cost() == 3 * kQuantum);
    CHECK(admit_all(queue) == Order{10, 1, 3, 2});
}

TEST_CASE("what was not used is given back") {
    const auto order_with_refund = [](uint64_t tokens) {
        AdmissionQueue queue;
        for (SequenceId id = 1; id <= 3; ++id) queue.push({id, "a", 0, kQuantum});
        for (SequenceId id = 11; id <= 13; ++id) queue.push({id, "b", 0, kQuantum});
        CHECK(queue.next() == 1);
        queue.admit(1);
        queue.refund("a", 0, tokens);
        queue.refund("a", 1, 100 * kQuantum);  // another class
        queue.refund("x", 0, 100 * kQuantum);
        return admit_all(queue);
    };
    CHECK(order_with_refund(kQuantum - 1) == Order{11, 2, 12, 3, 13});
    CHECK(order_with_refund(kQuantum) == Order{2, 11, 3, 12, 13});
}

TEST_CASE("a client with nothing queued is forgotten") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, 1});
    queue.push({2, "b", 0, 3 * kQuantum});
    CHECK(queue.next() == 1);
    queue.admit(1);  // and a quantum less one token is left
    queue.refund("a", 0, 50 * kQuantum);
    queue.push({3, "a", 0, 4 * kQuantum});
    CHECK(admit_all(queue) == Order{2, 3});
    queue.push({4, "a", 0, 4 * kQuantum});
    CHECK(queue.erase(4));
    CHECK_FALSE(queue.erase(4));
    CHECK(queue.heads().empty());
}

TEST_CASE("promoted: next now, paid later") {
    AdmissionQueue queue;
    for (SequenceId id = 1; id <= 4; ++id) queue.push({id, "a", 0, kQuantum});
    for (SequenceId id = 11; id <= 12; ++id) queue.push({id, "b", 0, 3 * kQuantum});
    CHECK(queue.next() == 1);
    queue.promote(11);
    CHECK(queue.next() == 11);
    queue.admit(11);
    CHECK(admit_all(queue) == Order{1, 2, 3, 4, 12});
}

TEST_CASE("the promotion ends with its sequence") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, kQuantum});
    queue.push({2, "b", 0, 9 * kQuantum});
    queue.push({3, "b", 0, 9 * kQuantum});
    queue.promote(2);
    CHECK(queue.next() == 2);
    CHECK(queue.erase(2));
    CHECK(queue.next() == 1);
    queue.promote(3);
    queue.push({4, "b", 0, kQuantum});
    queue.admit(3);
    queue.push_front({3, "b", 0, 0});  // preempted at once
    CHECK(admit_all(queue) == Order{1, 3, 4});
}

TEST_CASE("a sequence that is admitted out of turn is charged as well") {
    AdmissionQueue queue;
    queue.push({1, "a", 0, kQuantum});
    queue.push({2, "a", 0, 2 * kQuantum});
    queue.push({3, "a", 0, kQuantum});
    for (SequenceId id = 11; id <= 14; ++id) queue.push({id, "b", 0, kQuantum});
    queue.admit(2);
    CHECK(admit_all(queue) == Order{11, 12, 1, 13, 3, 14});
}
