// The sequences that wait for a place: the higher priority first, strictly; within one priority
// the clients take turns by deficit round robin (Shreedhar, Varghese 1995) in tokens; and a
// client's own sequences keep their order.
//
// The clients of a class stand in a round. At its turn a client gets a quantum and is served while
// what it has saved pays for its first sequence; the rest it keeps, and goes to the end of the
// round. One with nothing queued is forgotten with all that it saved or owes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "chatloop/core/ids.hpp"

namespace chatloop {

inline constexpr int64_t kQuantumTokens = 256;

struct Waiting {
    SequenceId id = 0;
    std::string client;
    int32_t priority = 0;
    uint64_t cost = 0;  // tokens: the prompt, and what may be generated
};

class AdmissionQueue {
public:
    void push(Waiting sequence);
    // Before its client's others: a preempted one. It costs nothing, whatever it says: it was
    // charged when it was admitted first.
    void push_front(Waiting sequence);

    // Whose turn it is. Turns pass until somebody's saved tokens suffice, in O(clients) however
    // large the cost; so the answer stays until that sequence leaves, its client's order changes,
    // another is promoted or one of a higher priority comes.
    std::optional<SequenceId> next();
    // The first sequence of each client of the highest priority, in the order of their turns.
    std::vector<const Waiting*> heads() const;
    // Makes a client's first sequence the next of its class, on credit.
    void promote(SequenceId id);

    void admit(SequenceId id);  // removes and charges it, also out of turn
    bool erase(SequenceId id);  // false: it was not there
    // What an admitted sequence did not use; lost when its client has nothing queued.
    void refund(const std::string& client, int32_t priority, uint64_t tokens);

    size_t size() const { return sequences_.size(); }
    uint64_t cost() const { return cost_; }  // of all
    const std::map<SequenceId, Waiting>& sequences() const { return sequences_; }
    std::optional<SequenceId> oldest() const;  // ids ascend with arrival

private:
    struct Client {
        std::string name;
        std::deque<SequenceId> waiting;
        int64_t saved = 0;  // tokens; owed when negative
    };
    struct Class {
        std::list<Client> round;  // in the order of turns
        bool has_turn = false;     // the first client has had its quantum
        SequenceId promoted = 0;   // the first client pays later for it; 0: none
    };

    Client& enter(Waiting sequence);
    Class& class_of(const Waiting& sequence) { return classes_.at(sequence.priority); }
    static std::list<Client>::iterator find(Class& among, const std::string& client);
    int64_t missing(const Client& client) const;
    void pass_turns(Class& among) const;
    void remove(SequenceId id, bool is_charged);

    std::map<SequenceId, Waiting> sequences_;
    std::map<int32_t, Class, std::greater<>> classes_;  // none without a sequence
    uint64_t cost_ = 0;
};

}  // namespace chatloop
