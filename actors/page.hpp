// The page of the router: the files of web/, which are part of the binary, and the JSON that its
// pipeline view is drawn from.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "chatloop/http/site.hpp"
#include "chatloop/wire/codec.hpp"

namespace chatloop::actors {

struct PageFile {
    const char* name;  // "app.js"
    const unsigned char* bytes;
    size_t size;
    const char* tag;  // its ETag, with the quotes
};
std::span<const PageFile> page_files();
const char* page_style_hash();  // of the style sheet within index.html, as a policy names it

// GET / and /web/NAME; 304 to who has the file already. Nothing that the page does not bring along
// is ever loaded or run (Content-Security-Policy).
void add_page(http::Site& site);

// GET /status.json: STATUS (docs/protocol.md) as JSON, made anew at most every 200 ms.
void add_status_json(http::Site& site, std::function<wire::StatusReply()> status);

// The info map of STATUS as one JSON object.
std::string status_json(const wire::StatusReply& status);

}  // namespace chatloop::actors
