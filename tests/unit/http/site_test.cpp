#include "chatloop/http/site.hpp"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

using namespace chatloop;
using namespace chatloop::http;

namespace {

Site make_site() {
    Site site;
    const auto says = [](const char* what) {
        return [what](ExchangeId, Request&, TimeUs) {
            return std::optional<Response>({200, "text/plain", what, {}});
        };
    };
    site.add("GET", "/open", Access::kOpen, says("open"));
    site.add("POST", "/secret", Access::kKey, says("secret"));
    site.add("GET", "/things/*", Access::kOpen, says("thing"));
    return site;
}

Request request(const std::string& method, const std::string& path) {
    Request made;
    made.method = method;
    made.path = path;
    return made;
}

int head_status(const Site& site, const Request& asked) {
    const std::optional<Response> refusal = site.on_head(asked);
    return refusal ? refusal->status : 0;
}

}  // namespace

TEST_CASE("paths and methods") {
    const Site site = make_site();
    CHECK(head_status(site, request("GET", "/open")) == 0);
    CHECK(head_status(site, request("HEAD", "/open")) == 0);
    CHECK(head_status(site, request("GET", "/things/a/b")) == 0);
    CHECK(head_status(site, request("GET", "/things/")) == 404);
    CHECK(head_status(site, request("GET", "/open/")) == 404);
    CHECK(head_status(site, request("DELETE", "/open")) == 405);
    CHECK(head_status(site, request("OPTIONS", "/secret")) == 204);
    Request asked = request("GET", "/things/x");
    CHECK(site.on_request(1, asked, 0)->body == "thing");
}

TEST_CASE("a key is asked for only where one is configured") {
    Site site = make_site();
    Request asked = request("POST", "/secret");
    CHECK(head_status(site, asked) == 0);
    site.set_keys({"alpha", "beta"});
    CHECK(head_status(site, asked) == 401);
    CHECK(head_status(site, request("GET", "/open")) == 0);
    CHECK(head_status(site, request("OPTIONS", "/secret")) == 204);  // browsers send no key
    for (const char* value : {"Bearer beta", "bearer alpha"}) {
        asked.headers = {{"authorization", value}};
        CHECK(head_status(site, asked) == 0);
    }
    for (const char* value : {"Bearer betA", "Bearer", "Bearer ", "beta", "Basic beta",
                              "Bearer beta2"}) {
        asked.headers = {{"authorization", value}};
        CHECK(head_status(site, asked) == 401);
    }
}

TEST_CASE("errors have OpenAI's shape, whatever is in their text") {
    const Response response = problem_response({429, "full \xff", "messages", "busy", 1500});
    const nlohmann::json body = nlohmann::json::parse(response.body);
    CHECK(body["error"]["type"] == "rate_limit_error");
    CHECK(body["error"]["param"] == "messages");
    CHECK(body["error"]["code"] == "busy");
    const std::vector<std::pair<std::string, std::string>> headers = {
        {"Retry-After", "2"}, {"retry-after-ms", "1500"}, {"x-should-retry", "true"}};
    CHECK(response.headers == headers);
    const nlohmann::json other = nlohmann::json::parse(problem_json({500, "x", "", ""}));
    CHECK(other["error"]["param"].is_null());
}
