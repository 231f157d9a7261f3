#include "chatloop/router/admission_queue.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop {

AdmissionQueue::ClientQueue& AdmissionQueue::client_of(const Entry& entry) {
    Class& of = classes_[entry.priority];
    const auto [client, is_new] = of.clients.try_emplace(entry.client);
    if (is_new) {
        of.turns.push_back(entry.client);
        // Whoever is alone has its turn at once.
        if (of.turns.size() == 1) client->second.deficit = kQuantum;
    }
    return client->second;
}

void AdmissionQueue::push(Entry entry) {
    CL_ASSERT(!contains(entry.id));
    client_of(entry).waiting.push_back(entry.id);
    cost_ += entry.cost;
    entries_.emplace(entry.id, std::move(entry));
}

void AdmissionQueue::push_front(Entry entry) {
    CL_ASSERT(!contains(entry.id));
    client_of(entry).waiting.push_front(entry.id);
    cost_ += entry.cost;
    entries_.emplace(entry.id, std::move(entry));
}

// Tokens that the client lacks for its first request; not positive when it may have it.
int64_t AdmissionQueue::missing(const Class& of, const std::string& client) const {
    const ClientQueue& queue = of.clients.at(client);
    const Entry& first = entries_.at(queue.waiting.front());
    return static_cast<int64_t>(first.cost) - queue.deficit;
}

void AdmissionQueue::next_turn(Class& of) {
    of.turns.push_back(std::move(of.turns.front()));
    of.turns.pop_front();
    of.clients.at(of.turns.front()).deficit += kQuantum;
}

std::optional<SequenceId> AdmissionQueue::next() {
    if (classes_.empty()) return std::nullopt;
    Class& of = classes_.begin()->second;
    if (missing(of, of.turns.front()) > 0) {
        // Rounds in which nobody could have anything are given at once.
        int64_t rounds = INT64_MAX;
        for (const std::string& client : of.turns) {
            const int64_t lacks = std::max<int64_t>(0, missing(of, client));
            rounds = std::min(rounds, (lacks + kQuantum - 1) / kQuantum);
        }
        for (auto& [client, queue] : of.clients)
            queue.deficit += std::max<int64_t>(0, rounds - 1) * kQuantum;
        while (missing(of, of.turns.front()) > 0) next_turn(of);
    }
    return of.clients.at(of.turns.front()).waiting.front();
}

void AdmissionQueue::take_out(const Entry& entry) {
    const auto of = classes_.find(entry.priority);
    const auto client = of->second.clients.find(entry.client);
    std::erase(client->second.waiting, entry.id);
    cost_ -= entry.cost;
    if (client->second.waiting.empty()) {  // what it did not use is lost
        const bool had_turn = of->second.turns.front() == entry.client;
        std::erase(of->second.turns, entry.client);
        of->second.clients.erase(client);
        if (of->second.clients.empty()) classes_.erase(of);
        else if (had_turn) of->second.clients.at(of->second.turns.front()).deficit += kQuantum;
    }
    entries_.erase(entry.id);
}

void AdmissionQueue::admit(SequenceId id) {
    const Entry entry = entries_.at(id);
    classes_.at(entry.priority).clients.at(entry.client).deficit -=
        static_cast<int64_t>(entry.cost);
    take_out(entry);
}

void AdmissionQueue::erase(SequenceId id) {
    if (const auto found = entries_.find(id); found != entries_.end()) {
        const Entry entry = found->second;
        take_out(entry);
    }
}

void AdmissionQueue::refund(const std::string& client, int32_t priority, uint64_t tokens) {
    const auto of = classes_.find(priority);
    if (of == classes_.end()) return;
    const auto queue = of->second.clients.find(client);
    if (queue != of->second.clients.end())
        queue->second.deficit += static_cast<int64_t>(tokens);
}

}  // namespace chatloop
