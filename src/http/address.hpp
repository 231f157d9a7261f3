// "127.0.0.1:8080" and socket addresses.
#pragma once

#include <sys/socket.h>

#include <string>

#include "chatloop/core/result.hpp"

namespace chatloop::http {

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
    uint16_t port = 0;
    bool or_above = false;  // PORT+: this port or the first free one above it
};

// kInvalidRequest: neither "IPV4:PORT" nor "[IPV6]:PORT", with or without "http://". Port * is 0,
// and a port may have a + behind it.
Result<Address> parse_address(const std::string& text);
void set_port(Address& address, uint16_t port);
std::string address_text(const sockaddr* address, bool with_port);

}  // namespace chatloop::http
