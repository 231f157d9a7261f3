// A simulated client: it submits, cancels, and takes up at this router or another what a lost
// connection or a silent router left undone. Every token is compared as it comes.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "coverage.hpp"
#include "members.hpp"
#include "request.hpp"

namespace chatloop::sim {

class ClientProcess final : public Process {
public:
    ClientProcess(Setting& setting, const std::string& name);

    void add(SimRequest request);
    const std::deque<SimRequest>& requests() const { return requests_; }
    bool all_ended() const;
    void die();

protected:
    void power_on() override;
    void power_off() override {}
    void on_message(Arrival arrival, TimeUs now) override;
    void on_tick(TimeUs now, TimeUs gap_us) override;
    TimeUs next_timer() const override;
    bool has_work() const override { return false; }
    void run_unit(TimeUs) override {}
    void unit_done(TimeUs) override {}
    bool finished() const override { return false; }

private:
    void hear(const wire::RouterBody& body, TimeUs now);
    void compare(const wire::Pong& pong, TimeUs now);
    void hear_piece(SimRequest& request, const wire::Piece& piece, TimeUs now);
    void hear_prompt(SimRequest& request, const wire::PromptPiece& piece, TimeUs now);
    void hear_failure(const wire::Failure& failure, TimeUs now);
    void take_up(SimRequest& request, TimeUs now);
    void take_up_all(TimeUs now);
    void change_router(TimeUs now);
    void connect();
    void say(const wire::ClientBody& body);
    SimRequest* find(const std::string& id);
    bool has_open() const;
    bool is_unbroken(const SimRequest& request) const;
    void broken(const SimRequest& request, const std::string& what);

    Setting& setting_;
    std::deque<SimRequest> requests_;
    size_t router_ = 0;
    SimBus::ConnectionId front_ = 0;
    bool connected_ = false;  // front_ is one
    uint32_t handshakes_ = 0;  // of front_, that were heard of
    TimeUs heard_at_ = 0;
    TimeUs ping_at_ = 0;
    uint64_t nonce_ = 0;       // of the last PING
    bool sees_links_ = false;  // or learns from PONGs alone that a connection was made anew
    Incarnation router_incarnation_ = 0;
};

}  // namespace chatloop::sim
