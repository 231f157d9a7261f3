// "127.0.0.1:8080" and socket addresses.
#pragma once

#include <sys/socket.h>

#include <string>

#include "chatloop/core/result.hpp"

namespace chatloop::http {

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
};

// kInvalidRequest: neither "IPV4:PORT" nor "[IPV6]:PORT", with or without "http://". Port * is 0.
Result<Address> parse_address(const std::string& text);
std::string address_text(const sockaddr* address, bool with_port);

}  // namespace chatloop::http
