#include "addresses.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "chatloop/bus/socket.hpp"
#include "chatloop/bus/system.hpp"
#include "chatloop/http/server.hpp"
#include "command_line.hpp"
#include "node.hpp"

namespace chatloop::actors {

namespace {

enum class Form : uint8_t { kBus, kPeers, kHttp };  // kPeers: of the bus, told to other hosts

struct BoundKey {
    const char* path;
    Form form;
};
constexpr std::array kBoundKeys = {
    BoundKey{"bus.ctrl", Form::kBus},     BoundKey{"bus.front", Form::kBus},
    BoundKey{"bus.result", Form::kPeers}, BoundKey{"bus.listen", Form::kPeers},
    BoundKey{"http.bind", Form::kHttp},   BoundKey{"metrics.bind", Form::kHttp},
};

Error at(const std::string& origin, const Error& error) {
    return {error.code, origin + ": " + error.message};
}

// Of an address whose form is right: "tcp://HOST:PORT", "HOST:PORT", "http://[HOST]:PORT", ...
BoundAddress parsed(const std::string& origin, const std::string& text) {
    BoundAddress address{origin, text, "", ""};
    if (text.starts_with("ipc://") || text.starts_with("inproc://")) return address;
    std::string_view rest = text;
    if (const size_t scheme = rest.find("://"); scheme != rest.npos) rest.remove_prefix(scheme + 3);
    const size_t colon = rest.rfind(':');
    address.port = rest.substr(colon + 1);
    address.host = rest.substr(0, colon);
    if (address.host.starts_with('['))
        address.host = address.host.substr(1, address.host.size() - 2);
    return address;
}

bool is_any(const BoundAddress& address) {
    return address.host == "*" || address.host == "0.0.0.0" || address.host == "::";
}

bool collide(const BoundAddress& a, const BoundAddress& b) {
    if (a.host.empty() || b.host.empty()) return a.text == b.text;
    const bool is_chosen = a.port == "*" || a.port == "0" || a.port.ends_with('+');
    if (a.port != b.port || is_chosen) return false;
    return a.host == b.host || is_any(a) || is_any(b);
}

Status check_form(const std::string& text, Form form) {
    if (form == Form::kHttp) return http::check_address(text);
    const Status valid = check_endpoint(text, EndpointUse::kBind);
    return valid.ok() && form == Form::kPeers ? check_connectable(text) : valid;
}

Status check_connected(const Settings& settings) {
    for (const char* path : {"bus.routers", "observability.exporter"}) {
        if (!settings.has(path)) continue;
        for (const std::string& text : settings.texts(path))
            if (const Status valid = check_endpoint(text, EndpointUse::kConnect); !valid)
                return at(settings.origin(path), valid.error());
    }
    constexpr const char* kCollector = "observability.otel_endpoint";
    if (!settings.has(kCollector)) return Ok{};
    const std::string& url = settings.text(kCollector);
    for (const std::string_view scheme : {"http://", "https://", "grpc://", "grpcs://"})
        if (url.starts_with(scheme) && url.size() > scheme.size()) return Ok{};
    return Error{ErrorCode::kInvalidRequest, settings.origin(kCollector) + ": '" + url +
                                                 "' is no URL as http://HOST:4317"};
}

}  // namespace

Result<std::vector<BoundAddress>> check_addresses(std::span<const Settings* const> of_process) {
    std::vector<BoundAddress> bound;
    for (const Settings* settings : of_process) {
        for (const BoundKey& key : kBoundKeys) {
            if (!settings->has(key.path)) continue;
            const std::string origin = settings->origin(key.path);
            const std::string& text = settings->text(key.path);
            if (key.path == std::string_view("metrics.bind") && metrics_address(*settings).empty())
                continue;
            if (const Status valid = check_form(text, key.form); !valid)
                return at(origin, valid.error());
            BoundAddress address = parsed(origin, text);
            const auto other =
                std::find_if(bound.begin(), bound.end(), [&](const BoundAddress& before) {
                    return collide(before, address);
                });
            if (other != bound.end())
                return Error{ErrorCode::kInvalidRequest,
                             origin + ": " + text + " is the address of " + other->origin +
                                 ", too (" + other->text + "): give it another port"};
            bound.push_back(std::move(address));
        }
        if (const Status valid = check_connected(*settings); !valid) return valid.error();
    }
    return bound;
}

Status check_own(std::span<const BoundAddress> bound) {
    for (const BoundAddress& address : bound) {
        if (address.host.empty() || is_any(address) || is_own_address(address.host)) continue;
        return Error{ErrorCode::kInvalidRequest,
                     address.origin + ": " + address.text +
                         " is no address of this host; bind one that `ip address` lists"};
    }
    return Ok{};
}

}  // namespace chatloop::actors
