#include "page.hpp"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

namespace chatloop::actors {

namespace {

std::string policy() {
    return std::string("default-src 'none'; script-src 'self'; style-src '") + page_style_hash() +
           "'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
           "frame-ancestors 'none'";
}

const char* type_of(std::string_view name) {
    if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
    if (name.ends_with(".css")) return "text/css; charset=utf-8";
    if (name.ends_with(".svg")) return "image/svg+xml";
    return "text/html; charset=utf-8";
}

http::Response response_of(const PageFile& file, const http::Request& request) {
    http::Response response;
    if (request.header("if-none-match") == file.tag) {
        response.status = 304;
    } else {
        response.type = type_of(file.name);
        response.body.assign(reinterpret_cast<const char*>(file.bytes), file.size);
    }
    response.headers = {{"Content-Security-Policy", policy()},
                        {"ETag", file.tag},
                        {"X-Content-Type-Options", "nosniff"},
                        {"Referrer-Policy", "no-referrer"},
                        {"Cache-Control", "no-cache"}};
    return response;
}

}  // namespace

void add_page(http::Site& site) {
    for (const PageFile& file : page_files()) {
        const bool is_index = std::string_view(file.name) == "index.html";
        site.add("GET", is_index ? "/" : "/web/" + std::string(file.name), http::Access::kOpen,
                 [file](http::ExchangeId, http::Request& request, TimeUs) {
                     return response_of(file, request);
                 });
    }
}

std::string status_json(const wire::StatusReply& status) {
    constexpr size_t kInfoAt = 2;  // behind version and type
    const nlohmann::json message = nlohmann::json::from_msgpack(wire::encode_router(status));
    return message.at(kInfoAt).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void add_status_json(http::Site& site, std::function<wire::StatusReply()> status) {
    constexpr TimeUs kAgeUs = 200 * kMillisecondUs;
    struct Made {
        std::string text;
        TimeUs at = 0;
    };
    const auto made = std::make_shared<Made>();
    site.add("GET", "/status.json", http::Access::kKey,
             [status = std::move(status), made](http::ExchangeId, http::Request&, TimeUs now) {
                 if (made->text.empty() || now - made->at >= kAgeUs)
                     *made = {status_json(status()), now};
                 return http::Response{200, "application/json", made->text,
                                       {{"Cache-Control", "no-store"}}};
             });
}

}  // namespace chatloop::actors
