#include "chatloop/http/site.hpp"

#include <algorithm>

#include "chatloop/core/assert.hpp"

namespace chatloop::http {

namespace {

constexpr char kAllowedHeaders[] =
    "authorization, content-type, x-request-id, traceparent, last-event-id, "
    "openai-organization, openai-project, "
    "x-stainless-os, x-stainless-lang, x-stainless-package-version, x-stainless-runtime, "
    "x-stainless-runtime-version, x-stainless-arch, x-stainless-retry-count, x-stainless-timeout, "
    "x-stainless-helper-method, x-stainless-async";

std::string method_of(const Request& request) {
    return request.method == "HEAD" ? "GET" : request.method;
}

bool serves(const std::string& pattern, const std::string& path) {
    if (!pattern.ends_with("/*")) return pattern == path;
    return path.size() >= pattern.size() && path.starts_with(pattern.substr(0, pattern.size() - 1));
}

// Takes the same time wherever the first difference is; only the lengths show.
bool same_secret(std::string_view a, std::string_view b) {
    if (a.size() != b.size()) return false;
    unsigned char difference = 0;
    for (size_t i = 0; i < a.size(); ++i)
        difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
    return difference == 0;
}

std::string joined(const std::set<std::string>& methods) {
    std::string text = "OPTIONS";
    for (const std::string& method : methods) text += ", " + method;
    return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> site_headers() {
    return {{"Access-Control-Allow-Origin", "*"},
            {"Access-Control-Expose-Headers",
             "content-location, x-request-id, retry-after, retry-after-ms"}};
}

void Site::add(const std::string& method, const std::string& path, Access access,
               Handler handler) {
    entries_.push_back({method, path, access, std::move(handler)});
}

const Site::Entry* Site::find(const Request& request) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
        return entry.method == method_of(request) && serves(entry.path, request.path);
    });
    return found == entries_.end() ? nullptr : &*found;
}

std::set<std::string> Site::methods_of(const std::string& path) const {
    std::set<std::string> methods;
    for (const Entry& entry : entries_) {
        if (!serves(entry.path, path)) continue;
        methods.insert(entry.method);
        if (entry.method == "GET") methods.insert("HEAD");
    }
    return methods;
}

bool Site::has_key(const Request& request) const {
    constexpr std::string_view kScheme = "bearer ";
    std::string_view given = request.header("authorization");
    const bool is_bearer =
        given.size() > kScheme.size() &&
        std::equal(kScheme.begin(), kScheme.end(), given.begin(), [](char a, char b) {
            return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b);
        });
    if (!is_bearer) return false;
    given.remove_prefix(kScheme.size());
    bool known = false;  // every key is compared, whichever fits
    for (const std::string& key : keys_) known = same_secret(key, given) || known;
    return known;
}

std::optional<Response> Site::on_head(const Request& request) const {
    const std::set<std::string> methods = methods_of(request.path);
    if (methods.empty()) {
        return problem_response({404, "there is no " + request.path, "", "not_found"});
    }
    if (request.method == "OPTIONS") {
        return Response{204, "", "",
                        {{"Allow", joined(methods)},
                         {"Access-Control-Allow-Methods", joined(methods)},
                         {"Access-Control-Allow-Headers", kAllowedHeaders},
                         {"Access-Control-Max-Age", "86400"}}};
    }
    const Entry* entry = find(request);
    if (entry == nullptr) {
        Response refusal = problem_response(
            {405, request.path + " takes " + joined(methods) + ", not " + request.method, "",
             "method_not_allowed"});
        refusal.headers.emplace_back("Allow", joined(methods));
        return refusal;
    }
    if (entry->access == Access::kKey && !keys_.empty() && !has_key(request)) {
        Response refusal = problem_response(
            {401, "a valid API key is needed: Authorization: Bearer KEY", "", "invalid_api_key"});
        refusal.headers.emplace_back("WWW-Authenticate", "Bearer");
        return refusal;
    }
    return std::nullopt;
}

std::optional<Response> Site::on_request(ExchangeId id, Request& request, TimeUs now) const {
    const Entry* entry = find(request);
    CL_ASSERT(entry != nullptr);  // on_head let it pass
    return entry->handler(id, request, now);
}

}  // namespace chatloop::http
