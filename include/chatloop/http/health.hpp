// /readyz of a router: whether a frame went through every stage of a route within the last 5 s.
// Each RESULT shows it, in STATUS. When every route was silent, a canary does: a request of one
// token, which takes a slot and a block as any other. No socket, no clock: STATUS and canary are
// messages.
#pragma once

#include <string>
#include <vector>

#include "chatloop/http/api.hpp"

namespace chatloop::http {

inline const std::string kHealthClient = std::string(kClientPrefix) + "health";

class Health {
public:
    Health(Responder& responder, ToRouter to_router)
        : responder_(responder), to_router_(std::move(to_router)) {}

    // /readyz and /health.
    void serve(Site& site);

    // What the router says to kHealthClient.
    void on_router(const wire::RouterBody& message, TimeUs now);
    void on_gone(ExchangeId id);
    void on_tick(TimeUs now);
    TimeUs next_timer() const;

private:
    void ask(ExchangeId id, TimeUs now);
    void on_status(const wire::StatusReply& status, TimeUs now);
    void answer(bool ready, const std::string& why);

    Responder& responder_;
    ToRouter to_router_;
    std::vector<ExchangeId> waiting_;
    wire::StatusReply status_;       // the latest
    uint64_t canaries_ = 0;
    std::string canary_;             // the one that runs
    TimeUs canary_until_ = kNever;
};

}  // namespace chatloop::http
