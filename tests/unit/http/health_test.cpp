#include "chatloop/http/health.hpp"

#include <doctest/doctest.h>

#include "api_harness.hpp"

using namespace chatloop;
using namespace chatloop::http;

TEST_CASE("ready: by frames that move, else by a canary") {
    FakeResponder responder;
    std::vector<wire::ClientBody> sent;
    Health health(responder, [&](const std::string& client, const wire::ClientBody& body, TimeUs) {
        CHECK(client == kHealthClient);
        sent.push_back(body);
    });
    Site site;
    health.serve(site);
    Request request;
    request.method = "GET";
    request.path = "/readyz";
    const auto ask = [&](ExchangeId id, TimeUs now, bool ready, std::vector<TimeUs> silent) {
        CHECK_FALSE(site.on_request(id, request, now));
        wire::StatusReply status;
        status.ready = ready;
        if (!ready) status.no_route = "layers 1-2 are missing";
        for (const TimeUs us : silent) {
            status.routes.push_back({1, true, {}, 0, {{"frames", 5}}});
            if (us != kNever)
                status.routes.back().counters.push_back({"silent_us", static_cast<uint64_t>(us)});
        }
        health.on_router(status, now);
    };
    ask(1, 0, false, {});
    CHECK(responder.answers.at(1).head.status == 503);
    CHECK(Json::parse(responder.answers.at(1).head.body)["why"] ==
          "no complete set of workers is ready: layers 1-2 are missing");
    ask(2, kSecondUs, true, {20 * kSecondUs, 4 * kSecondUs});
    CHECK(responder.answers.at(2).head.status == 200);  // the second route answers
    // The first question after a long silence, and routes that have never answered.
    ask(3, 20 * kSecondUs, true, {5 * kSecondUs, kNever});
    CHECK_FALSE(responder.answers.contains(3));
    const auto* canary = std::get_if<wire::Submit>(&sent.back());
    REQUIRE(canary != nullptr);
    CHECK(canary->parameters.max_tokens == 1);
    const std::string id = canary->request_id;
    ask(4, 20 * kSecondUs, true, {kNever});  // joins it
    health.on_router(wire::Done{id, "length", {}, 1, 0, 1, 0, 0, 0}, 21 * kSecondUs);
    CHECK(responder.answers.at(3).head.status == 200);
    CHECK(responder.answers.at(4).head.status == 200);
    ask(5, 30 * kSecondUs, true, {9 * kSecondUs});
    health.on_tick(health.next_timer());
    CHECK(responder.answers.at(5).head.status == 503);
    CHECK(std::holds_alternative<wire::Cancel>(sent.back()));
}
