#include "chatloop/router/admission_queue.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop {

std::list<AdmissionQueue::Client>::iterator AdmissionQueue::find(Class& among,
                                                                const std::string& client) {
    return std::find_if(among.round.begin(), among.round.end(),
                        [&](const Client& other) { return other.name == client; });
}

// A client that comes with its first sequence stands at the end of the round.
AdmissionQueue::Client& AdmissionQueue::enter(Waiting sequence) {
    Class& among = classes_[sequence.priority];
    auto client = find(among, sequence.client);
    if (client == among.round.end())
        client = among.round.insert(client, Client{sequence.client, {}, 0});
    cost_ += sequence.cost;
    const SequenceId id = sequence.id;
    const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
    CL_ASSERT(is_new);
    return *client;
}

void AdmissionQueue::push(Waiting sequence) {
    const SequenceId id = sequence.id;
    enter(std::move(sequence)).waiting.push_back(id);
}

void AdmissionQueue::push_front(Waiting sequence) {
    const SequenceId id = sequence.id;
    sequence.cost = 0;
    enter(std::move(sequence)).waiting.push_front(id);
}

std::optional<SequenceId> AdmissionQueue::next() {
    if (classes_.empty()) return std::nullopt;
    Class& among = classes_.begin()->second;
    pass_turns(among);
    return among.round.front().waiting.front();
}

std::vector<const Waiting*> AdmissionQueue::heads() const {
    std::vector<const Waiting*> heads;
    if (classes_.empty()) return heads;
    for (const Client& client : classes_.begin()->second.round)
        heads.push_back(&sequences_.at(client.waiting.front()));
    return heads;
}

// Tokens that its first sequence costs beyond what it has saved.
int64_t AdmissionQueue::missing(const Client& client) const {
    return static_cast<int64_t>(sequences_.at(client.waiting.front()).cost) - client.saved;
}

// Whole rounds in which nobody can pay pass at once.
void AdmissionQueue::pass_turns(Class& among) const {
    std::list<Client>& round = among.round;
    if (among.has_turn) {
        const Client& first = round.front();
        if (missing(first) <= 0 || first.waiting.front() == among.promoted) return;
        round.splice(round.end(), round, round.begin());
    }
    const auto turns = [this](const Client& client) {
        return std::max<int64_t>(1, (missing(client) + kQuantumTokens - 1) / kQuantumTokens);
    };
    auto winner = round.begin();
    int64_t turns_min = turns(*winner);
    for (auto client = std::next(winner); client != round.end(); ++client) {
        if (const int64_t needed = turns(*client); needed < turns_min) {
            winner = client;
            turns_min = needed;
        }
    }
    for (auto client = round.begin(); client != winner; ++client) client->saved += kQuantumTokens;
    winner->saved += kQuantumTokens;
    for (Client& client : round) client.saved += (turns_min - 1) * kQuantumTokens;
    round.splice(round.end(), round, round.begin(), winner);
    among.has_turn = true;
    among.promoted = 0;
}

void AdmissionQueue::promote(SequenceId id) {
    const Waiting& sequence = sequences_.at(id);
    Class& among = class_of(sequence);
    const auto client = find(among, sequence.client);
    CL_ASSERT(client->waiting.front() == id);
    if (client != among.round.begin()) {
        // The one whose turn it was has it afterwards.
        if (among.has_turn) among.round.front().saved -= kQuantumTokens;
        among.round.splice(among.round.begin(), among.round, client);
        among.has_turn = false;
    }
    if (!among.has_turn) client->saved += kQuantumTokens;
    among.has_turn = true;
    among.promoted = id;
}

void AdmissionQueue::remove(SequenceId id, bool is_charged) {
    const auto sequence = sequences_.find(id);
    Class& among = class_of(sequence->second);
    const auto client = find(among, sequence->second.client);
    const bool is_first = client == among.round.begin();
    const uint64_t cost = sequence->second.cost;
    std::erase(client->waiting, id);
    if (among.promoted == id) among.promoted = 0;
    cost_ -= cost;
    if (is_charged) client->saved -= static_cast<int64_t>(cost);
    if (client->waiting.empty()) {
        among.round.erase(client);
        if (is_first) among.has_turn = false;
    }
    if (among.round.empty()) classes_.erase(sequence->second.priority);
    sequences_.erase(sequence);
}

void AdmissionQueue::admit(SequenceId id) {
    CL_ASSERT(sequences_.contains(id));
    remove(id, true);
}

bool AdmissionQueue::erase(SequenceId id) {
    if (!sequences_.contains(id)) return false;
    remove(id, false);
    return true;
}

void AdmissionQueue::refund(const std::string& client, int32_t priority, uint64_t tokens) {
    const auto among = classes_.find(priority);
    if (among == classes_.end()) return;
    const auto found = find(among->second, client);
    if (found != among->second.round.end()) found->saved += static_cast<int64_t>(tokens);
}

std::optional<SequenceId> AdmissionQueue::oldest() const {
    if (sequences_.empty()) return std::nullopt;
    return sequences_.begin()->first;
}

}  // namespace chatloop
