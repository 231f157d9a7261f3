#include "client.hpp"

#include <algorithm>

namespace chatloop::sim {

namespace {

constexpr TimeUs kSilenceUs = 2 * kSecondUs;
constexpr TimeUs kPingUs = 500 * kMillisecondUs;
constexpr uint32_t kAttemptsMax = 200;

}  // namespace

ClientProcess::ClientProcess(Setting& setting, const std::string& name)
    : Process(setting.bus, setting.timeline, setting.random, name), setting_(setting) {}

void ClientProcess::add(SimRequest request) {
    requests_.push_back(std::move(request));
    if (alive()) wake(timeline_.now());
}

bool ClientProcess::all_ended() const {
    return std::all_of(requests_.begin(), requests_.end(),
                       [](const SimRequest& r) { return r.ended(); });
}

bool ClientProcess::has_open() const {
    return std::any_of(requests_.begin(), requests_.end(),
                       [](const SimRequest& r) { return r.open(); });
}

void ClientProcess::die() {
    for (SimRequest& request : requests_)
        if (!request.ended()) request.abandoned = true;
    crash();
}

void ClientProcess::power_on() {
    router_ = random_.below(static_cast<uint32_t>(setting_.routers.size()));
    connected_ = false;
    sees_links_ = random_.one_in(2);
    connect();
    heard_at_ = timeline_.now();
}

void ClientProcess::connect() {
    if (connected_) bus_.close(front_);
    front_ = bus_.connect(*this, Wire::kFront, front_endpoint(setting_.routers[router_]), name(),
                          0);
    connected_ = true;
    router_incarnation_ = 0;
    handshakes_ = 0;
}

// Nothing of it can have been lost on the way.
bool ClientProcess::is_unbroken(const SimRequest& request) const {
    return request.connection == front_ && bus_.handshakes(front_) <= 1 &&
           request.attempt == (request.resume ? 1 : 0);
}

void ClientProcess::say(const wire::ClientBody& body) {
    bus_.send(front_, Message(wire::encode_client(body)));
}

SimRequest* ClientProcess::find(const std::string& id) {
    for (SimRequest& request : requests_)
        if (request.submit.request_id == id) return &request;
    return nullptr;
}

void ClientProcess::broken(const SimRequest& request, const std::string& what) {
    setting_.verdict.broken(name() + " " + request.submit.request_id + ": " + what);
}

// ---- what it says ----

void ClientProcess::take_up(SimRequest& request, TimeUs now) {
    request.resume_at = kNever;
    if (request.cancel_sent) {  // nobody wants it any more
        request.abandoned = true;
        return;
    }
    if (++request.attempt > kAttemptsMax) return broken(request, "takes no end of attempts");
    wire::Progress progress;
    progress.prompt_ids = request.prompt_ids();
    for (SimChoice& choice : request.choices) {
        progress.choices.push_back(choice.tokens);
        choice.done.reset();
    }
    progress.seed = *request.submit.parameters.seed;
    progress.fingerprint = request.fingerprint;
    request.sent_nonce = nonce_;
    setting_.coverage.note("a client resumed");
    setting_.say(name(), "resumes " + request.submit.request_id + ", attempt " +
                             std::to_string(request.attempt));
    say(wire::Resume{request.submit.request_id, request.attempt, request.submit.parameters,
                     std::move(progress)});
    heard_at_ = std::max(heard_at_, now - kPingUs);
}

void ClientProcess::take_up_all(TimeUs now) {
    for (SimRequest& request : requests_)
        if (request.open()) request.resume_at = now;
}

void ClientProcess::change_router(TimeUs now) {
    setting_.coverage.note("a client changed its router");
    router_ = (router_ + 1) % setting_.routers.size();
    connect();
    heard_at_ = now;
    for (SimRequest& request : requests_)
        if (request.open())
            request.resume_at = now + 50 * kMillisecondUs + random_.below(450'000);
}

void ClientProcess::on_tick(TimeUs now, TimeUs) {
    const uint32_t handshakes = bus_.handshakes(front_);
    const bool is_new = std::exchange(handshakes_, handshakes) != handshakes && handshakes > 1;
    if (is_new && sees_links_) take_up_all(now);
    if (has_open() && now - heard_at_ > kSilenceUs) change_router(now);
    if (!has_open()) heard_at_ = now;
    for (SimRequest& request : requests_) {
        if (request.ended()) continue;
        if (!request.sent && now >= request.at && bus_.is_up(front_)) {
            request.sent = true;
            request.sent_nonce = nonce_;
            request.connection = front_;
            if (request.resume) {
                request.attempt = 1;
                say(wire::Resume{request.submit.request_id, 1, request.submit.parameters,
                                 *request.resume});
            } else {
                say(request.submit);
            }
        }
        if (!request.sent) continue;
        if (bus_.is_up(front_) && now >= request.resume_at) take_up(request, now);
        if (!request.cancel_sent && now >= request.cancel_at && !request.ended() &&
            bus_.is_up(front_)) {
            request.cancel_sent = true;
            say(wire::Cancel{request.submit.request_id});
        }
    }
    if (now >= ping_at_) {
        say(wire::Ping{++nonce_, true});
        ping_at_ = now + kPingUs;
    }
}

TimeUs ClientProcess::next_timer() const {
    TimeUs next = ping_at_;
    for (const SimRequest& request : requests_) {
        if (request.ended()) continue;
        if (!request.sent) next = std::min(next, request.at);
        if (!request.cancel_sent) next = std::min(next, request.cancel_at);
        next = std::min(next, request.resume_at);
    }
    return next;
}

// ---- what it hears ----

void ClientProcess::on_message(Arrival arrival, TimeUs now) {
    if (arrival.kind == Arrival::Kind::kLink) return;  // on_tick may look at the connection
    if (arrival.peer != front_endpoint(setting_.routers[router_])) return;  // a closed socket's
    const Result<wire::RouterBody> body = wire::decode_router(arrival.bytes.bytes());
    CL_ASSERT(body.ok());
    heard_at_ = now;
    hear(*body, now);
}

// All that was sent before a PONG came before it, or was lost.
void ClientProcess::compare(const wire::Pong& pong, TimeUs now) {
    CL_ASSERT(pong.requests.has_value());
    for (SimRequest& request : requests_) {
        const bool is_due = request.sent && request.open() && request.resume_at == kNever;
        if (!is_due || request.sent_nonce >= pong.nonce) continue;
        size_t held = 0;
        for (const SimChoice& choice : request.choices) held += choice.tokens.size();
        const auto running = std::find_if(
            pong.requests->begin(), pong.requests->end(), [&](const wire::RunningRequest& one) {
                return one.request_id == request.submit.request_id;
            });
        if (running != pong.requests->end() && running->tokens <= held) continue;
        if (is_unbroken(request))
            return broken(request, "a PONG before what was sent before it");
        setting_.coverage.note("a PONG told what was lost");
        request.resume_at = now;
    }
}

void ClientProcess::hear(const wire::RouterBody& body, TimeUs now) {
    if (const auto* pong = std::get_if<wire::Pong>(&body)) {
        const Incarnation known = std::exchange(router_incarnation_, pong->router);
        if (known != 0 && known != pong->router) return take_up_all(now);  // it was restarted
        return compare(*pong, now);
    }
    if (const auto* failure = std::get_if<wire::Failure>(&body))
        return hear_failure(*failure, now);
    const auto request_of = [&](const std::string& id) -> SimRequest* {
        SimRequest* request = find(id);
        if (request == nullptr) setting_.verdict.broken("a message for " + id);
        if (request != nullptr && request->ended()) return nullptr;
        return request;
    };
    if (const auto* accepted = std::get_if<wire::Accepted>(&body)) {
        if (SimRequest* r = request_of(accepted->request_id)) r->accepted = true;
    } else if (const auto* piece = std::get_if<wire::Piece>(&body)) {
        if (SimRequest* r = request_of(piece->request_id)) hear_piece(*r, *piece, now);
    } else if (const auto* end = std::get_if<wire::ChoiceDone>(&body)) {
        SimRequest* r = request_of(end->request_id);
        if (r == nullptr) return;
        const bool is_one = r->choices.size() > 1 && end->choice < r->choices.size();
        if (!is_one) return broken(*r, "the end of a choice that it has not");
        r->choices[end->choice].done = *end;
    } else if (const auto* prompt = std::get_if<wire::PromptPiece>(&body)) {
        if (SimRequest* r = request_of(prompt->request_id)) hear_prompt(*r, *prompt, now);
    } else if (const auto* done = std::get_if<wire::Done>(&body)) {
        SimRequest* r = request_of(done->request_id);
        if (r == nullptr) return;
        r->done = *done;
        r->was_cut = r->was_cut || !is_unbroken(*r);
        // What was lost on a broken connection before its DONE came on the next one.
        const bool has_gap = std::any_of(r->choices.begin(), r->choices.end(), [&](const auto& c) {
            return c.tokens.size() < c.expected.size() ||
                   (!r->resume && c.text.size() < c.expected_text.size()) ||
                   (r->choices.size() > 1 && !c.done);
        });
        if (!is_unbroken(*r) && has_gap && !r->cancel_sent) {
            setting_.coverage.note("a DONE came after a gap");
            r->done.reset();
            r->resume_at = now;
        }
    }
}

// Nothing that was there before may come differently; what is missing before it was lost on the
// way, which a connection that did not break does not do.
void ClientProcess::hear_piece(SimRequest& r, const wire::Piece& piece, TimeUs now) {
    if (piece.choice >= r.choices.size()) return broken(r, "a piece of no choice");
    SimChoice& choice = r.choices[piece.choice];
    const bool may_repeat = !is_unbroken(r);
    const bool has_gap = piece.index > choice.tokens.size() ||
                         (!r.resume && piece.text_offset > choice.text.size());
    if (!may_repeat && (has_gap || piece.index != choice.tokens.size()))
        return broken(r, "a piece out of order");
    if (has_gap) {
        setting_.coverage.note("a client saw a gap");
        r.resume_at = now;
        return;
    }
    for (size_t i = 0; i < piece.token_ids.size(); ++i) {
        const size_t index = piece.index + i;
        if (index >= choice.expected.size() || piece.token_ids[i] != choice.expected[index])
            return broken(r, "token " + std::to_string(index) + " is not the oracle's");
        if (index == choice.tokens.size()) choice.tokens.push_back(piece.token_ids[i]);
    }
    if (r.resume) return;  // the text before is elsewhere
    const size_t have = choice.text.size() - piece.text_offset;
    if (have < piece.text.size()) choice.text += piece.text.substr(have);
    if (!choice.expected_text.starts_with(choice.text)) broken(r, "its text is not the oracle's");
}

void ClientProcess::hear_prompt(SimRequest& r, const wire::PromptPiece& piece, TimeUs) {
    if (piece.index > r.prompt.size()) {
        if (is_unbroken(r)) broken(r, "a prompt piece out of order");
        return;
    }
    for (size_t i = r.prompt.size() - piece.index; i < piece.entries.size(); ++i)
        r.prompt.push_back(piece.entries[i]);
}

void ClientProcess::hear_failure(const wire::Failure& failure, TimeUs now) {
    setting_.say(name(), failure.request_id.value_or("?") + " failed: " + failure.code + ": " +
                             failure.message);
    setting_.coverage.note("error " + failure.code);
    SimRequest* r = failure.request_id ? find(*failure.request_id) : nullptr;
    if (r == nullptr || r->ended()) return;
    if (r->cancel_sent) {  // a cancel that came after the end, or after a router's restart
        r->abandoned = true;
        return;
    }
    // The router thought that its client was gone.
    const bool was_given_up = failure.code == "client_lost" && !is_unbroken(*r);
    if (failure.retryable || was_given_up) {
        r->resume_at = now + 50 * kMillisecondUs + random_.below(450'000);
        return;
    }
    r->failure = failure;
}

}  // namespace chatloop::sim
