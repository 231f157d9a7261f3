// The requests that wait for a place: classes of priority, the highest first; within a class the
// clients take turns by deficit round robin in tokens (Shreedhar and Varghese, "Efficient Fair
// Queuing using Deficit Round Robin", 1995); within a client first come, first served.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "chatloop/core/ids.hpp"

namespace chatloop {

class AdmissionQueue {
public:
    static constexpr int64_t kQuantum = 512;  // tokens that a client may have in a turn

    struct Entry {
        SequenceId id = 0;
        std::string client;
        int32_t priority = 0;
        uint64_t cost = 0;  // tokens: prompt, and what it may generate
    };

    void push(Entry entry);
    // Before the other requests of its client: it was preempted. Its cost was charged before, so
    // give 0.
    void push_front(Entry entry);
    // Who is to be admitted now. Stays the same until that one is admitted or erased, a higher
    // class gets a request, or its client one in front of it.
    std::optional<SequenceId> next();
    void admit(SequenceId id);  // takes it out and charges its client
    void erase(SequenceId id);  // takes it out; nothing if it does not wait
    // Tokens that a client was charged for and did not use.
    void refund(const std::string& client, int32_t priority, uint64_t tokens);

    size_t size() const { return entries_.size(); }
    bool contains(SequenceId id) const { return entries_.contains(id); }
    uint64_t cost() const { return cost_; }  // of all that wait

private:
    struct ClientQueue {
        std::deque<SequenceId> waiting;
        int64_t deficit = 0;
    };
    // Clients of one priority with something that waits, in the order of their turns.
    struct Class {
        std::deque<std::string> turns;
        std::map<std::string, ClientQueue> clients;
    };

    ClientQueue& client_of(const Entry& entry);
    int64_t missing(const Class& of, const std::string& client) const;
    void next_turn(Class& of);
    void take_out(const Entry& entry);

    std::map<int32_t, Class, std::greater<>> classes_;
    std::unordered_map<SequenceId, Entry> entries_;
    uint64_t cost_ = 0;
};

}  // namespace chatloop
