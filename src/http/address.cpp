#include "address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <string_view>

namespace chatloop::http {

Result<Address> parse_address(const std::string& text) {
    const Error bad{ErrorCode::kInvalidRequest,
                    "'" + text.substr(0, 64) + "' is not ADDRESS:PORT, as 127.0.0.1:8080"};
    constexpr std::string_view kScheme = "http://";
    const std::string plain = text.starts_with(kScheme) ? text.substr(kScheme.size()) : text;
    const size_t colon = plain.rfind(':');
    if (colon == std::string::npos) return bad;
    std::string host = plain.substr(0, colon);
    std::string port_text = plain.substr(colon + 1);
    Address address;
    address.or_above = port_text.size() > 1 && port_text.back() == '+';
    if (address.or_above) port_text.pop_back();
    uint16_t port = 0;
    const char* const end = port_text.data() + port_text.size();
    const auto [stop, error] = std::from_chars(port_text.data(), end, port);
    if (port_text != "*" && (error != std::errc() || stop != end || port_text.empty())) return bad;
    if (address.or_above && port == 0) return bad;
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        address.size = sizeof *v6;
        set_port(address, port);
        host = host.substr(1, host.size() - 2);
        return inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1 ? Result<Address>(address)
                                                                      : bad;
    }
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    address.size = sizeof *v4;
    set_port(address, port);
    return inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1 ? Result<Address>(address) : bad;
}

void set_port(Address& address, uint16_t port) {
    address.port = port;
    if (address.storage.ss_family == AF_INET6)
        reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port = htons(port);
    else
        reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(port);
}

std::string address_text(const sockaddr* address, bool with_port) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET6) {
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        if (!with_port) return text;
        return "[" + std::string(text) + "]:" + std::to_string(ntohs(v6->sin6_port));
    }
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    return with_port ? text + (":" + std::to_string(ntohs(v4->sin_port))) : text;
}

}  // namespace chatloop::http
