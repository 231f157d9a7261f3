// The addresses among the settings: their form, ports that are bound twice, and, for --check,
// whether this machine has them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "chatloop/core/config.hpp"

namespace chatloop::actors {

// An address that the process is going to bind.
struct BoundAddress {
    std::string origin;  // where it was given: "stage.yaml:4: bus.listen"
    std::string text;
    std::string host;    // IPv4, IPv6 without brackets, or "*"; empty: no TCP
    std::string port;    // "*": any
};

// Checks every address of a process's settings: of one role, or of a stage and the router that it
// hosts. What is to be bound, or kInvalidRequest with the key: no address, one that peers cannot
// reach, a port that is taken by another key.
Result<std::vector<BoundAddress>> check_addresses(std::span<const Settings* const> of_process);

// Whether this machine has the addresses: what a bind would say, without keeping a port.
Status check_own(std::span<const BoundAddress> bound);

}  // namespace chatloop::actors
