// The front: what clients say, and what they are told.
#include "chatloop/core/limits.hpp"
#include "chatloop/router/router.hpp"

namespace chatloop {

void Router::send(const std::string& client, const wire::RouterBody& body) {
    outbox_.send_client(client, wire::encode_router(body));
}

void Router::reply_error(const std::string& client, std::optional<std::string> request_id,
                         const Error& error, uint32_t committed) {
    ++counters_.errors[error_name(error.code)];
    wire::Failure failure;
    failure.request_id = std::move(request_id);
    failure.code = error_name(error.code);
    failure.message = error.message;
    failure.retryable = error_retryable(error.code);
    failure.committed = committed;
    if (error.retry_after_ms > 0) failure.retry_after_ms = error.retry_after_ms;
    send(client, failure);
}

void Router::on_client(const std::string& client, wire::ByteView bytes, TimeUs now) {
    if (const auto known = clients_.find(client); known != clients_.end())
        known->second.heard_at = now;
    if (quarantine_.holds(client, now)) {
        ++counters_.front_quarantined;
        return;
    }
    auto decoded = wire::decode_client(bytes);
    if (const auto* bad = std::get_if<wire::ClientError>(&decoded)) {
        ++counters_.rejected;
        if (bad->error.code == ErrorCode::kMalformed) {
            ++counters_.front_malformed;
            if (quarantine_.note(client, now)) on_quarantine(client);
        }
        // An error with the id of a request that runs would end it at the client.
        const bool runs = bad->request_id && find_request(client, *bad->request_id) != nullptr;
        return reply_error(client, runs ? std::nullopt : bad->request_id, bad->error);
    }
    wire::ClientBody& body = std::get<wire::ClientBody>(decoded);
    if (auto* submit = std::get_if<wire::Submit>(&body)) {
        on_submit(client, submit->request_id, std::move(submit->parameters), std::nullopt, now);
    } else if (auto* resume = std::get_if<wire::Resume>(&body)) {
        on_submit(client, resume->request_id, resume->parameters, *resume, now);
    } else if (const auto* cancel = std::get_if<wire::Cancel>(&body)) {
        on_cancel(client, cancel->request_id, now);
    } else if (const auto* ping = std::get_if<wire::Ping>(&body)) {
        wire::Pong pong{ping->nonce, config_.cluster.incarnation, {}};
        if (ping->wants_requests) pong.requests = requests_of(client);
        send(client, pong);
    } else if (const auto* trace = std::get_if<wire::TraceQuery>(&body)) {
        send_trace(client, trace->request_id);
    } else {
        send(client, status());
    }
}

std::shared_ptr<Request> Router::find_request(const std::string& client,
                                              const std::string& request_id) const {
    const auto known = clients_.find(client);
    if (known == clients_.end()) return nullptr;
    const auto request = known->second.requests.find(request_id);
    return request == known->second.requests.end() ? nullptr : request->second;
}

// What runs for the client; nothing where that would be too much for a message.
std::optional<std::vector<wire::RunningRequest>> Router::requests_of(
    const std::string& client) const {
    std::vector<wire::RunningRequest> running;
    const auto known = clients_.find(client);
    if (known == clients_.end()) return running;
    if (known->second.requests.size() > kPongRequestsMax) return std::nullopt;
    for (const auto& [request_id, request] : known->second.requests)
        running.push_back({request_id, request->attempt, committed(*request)});
    return running;
}

void Router::on_cancel(const std::string& client, const std::string& request_id, TimeUs now) {
    const std::shared_ptr<Request> running = find_request(client, request_id);
    if (running == nullptr) {
        return reply_error(client, request_id,
                           {ErrorCode::kInvalidRequest, "no request of that id is running"});
    }
    running->done = {};
    running->done.finish_reason = "cancelled";
    finish(*running, now);
    schedule(now);
}

void Router::on_client_gone(const std::string& client, TimeUs now) {
    const auto known = clients_.find(client);
    if (known == clients_.end()) return;
    ++counters_.clients_gone;
    const auto requests = known->second.requests;
    for (const auto& [request_id, request] : requests)
        fail(*sequences_.at(request->running.front()),
             {ErrorCode::kClientLost, "its client is silent or gone"});
    clients_.erase(client);
    schedule(now);
}

}  // namespace chatloop
