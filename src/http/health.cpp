#include "chatloop/http/health.hpp"

#include <algorithm>

#include "chatloop/core/limits.hpp"

namespace chatloop::http {

namespace {

constexpr TimeUs kFreshUs = 5 * kSecondUs;
constexpr TimeUs kCanaryUs = 5 * kSecondUs;

// Whether a RESULT of a route that takes requests came within kFreshUs.
bool frames_come_through(const wire::StatusReply& status) {
    return std::any_of(status.routes.begin(), status.routes.end(), [](const auto& route) {
        return route.up && std::any_of(route.counters.begin(), route.counters.end(),
                                       [](const wire::Counter& counter) {
                                           return counter.name == "silent_us" &&
                                                  counter.value < uint64_t{kFreshUs};
                                       });
    });
}

Json stages_of(const wire::StatusReply& status) {
    Json stages = Json::array();
    for (const wire::WorkerStatus& worker : status.workers)
        stages.push_back({{"worker", worker.name},
                          {"layers", {worker.layer_first, worker.layer_end}},
                          {"state", worker.state}});
    return stages;
}

}  // namespace

void Health::serve(Site& site) {
    for (const char* path : {"/readyz", "/health"})
        site.add("GET", path, Access::kOpen, [this](ExchangeId id, Request&, TimeUs now) {
            ask(id, now);
            return std::optional<Response>();
        });
}

void Health::ask(ExchangeId id, TimeUs now) {
    if (waiting_.size() >= kHttpConnectionsMax) return responder_.abort(id);
    waiting_.push_back(id);
    to_router_(kHealthClient, wire::StatusQuery{}, now);
}

void Health::on_router(const wire::RouterBody& message, TimeUs now) {
    if (const auto* status = std::get_if<wire::StatusReply>(&message)) {
        on_status(*status, now);
    } else if (const auto* done = std::get_if<wire::Done>(&message)) {
        if (done->request_id != canary_) return;
        canary_.clear();
        answer(true, "a canary went through every stage");
    } else if (const auto* failure = std::get_if<wire::Failure>(&message)) {
        if (failure->request_id.value_or("") != canary_ || canary_.empty()) return;
        canary_.clear();
        answer(false, "the canary failed: " + failure->code + ": " + failure->message);
    }
}

void Health::on_status(const wire::StatusReply& status, TimeUs now) {
    status_ = status;
    if (!status.ready)
        return answer(false, "no complete set of workers is ready: " + status.no_route);
    if (frames_come_through(status)) return answer(true, "frames go through every stage");
    if (!canary_.empty()) return;
    canary_ = "canary-" + std::to_string(++canaries_);
    canary_until_ = now + kCanaryUs;
    wire::Submit submit;
    submit.request_id = canary_;
    submit.parameters.prompt = std::vector<uint32_t>{0};
    submit.parameters.max_tokens = 1;
    submit.parameters.ignore_eos = true;
    submit.parameters.priority = kPriorityMax;
    submit.parameters.deadline_ms = static_cast<uint32_t>(kCanaryUs / kMillisecondUs);
    to_router_(kHealthClient, submit, now);
}

void Health::answer(bool ready, const std::string& why) {
    const Json body = {{"status", ready ? "ready" : "not ready"},
                       {"why", why},
                       {"router", status_.router},
                       {"model", status_.model},
                       {"running", status_.running},
                       {"waiting", status_.waiting},
                       {"stages", stages_of(status_)}};
    Response response{ready ? 200 : 503, "application/json", to_text(body), {}};
    if (!ready) response.headers.emplace_back("Retry-After", "1");
    for (const ExchangeId id : std::exchange(waiting_, {})) responder_.respond(id, response);
}

void Health::on_gone(ExchangeId id) { std::erase(waiting_, id); }

TimeUs Health::next_timer() const { return canary_.empty() ? kNever : canary_until_; }

// Its deadline ends the canary; a router that does not even say so is not waited for.
void Health::on_tick(TimeUs now) {
    if (canary_.empty() || now < canary_until_) return;
    const std::string canary = std::exchange(canary_, {});
    to_router_(kHealthClient, wire::Cancel{canary}, now);
    answer(false, "the canary did not come back within " + std::to_string(kCanaryUs / kSecondUs) +
                      " s");
}

}  // namespace chatloop::http
