// Parts of the requests of ask.hpp that have a file of their own.
#pragma once

#include "chatloop/http/ask.hpp"

namespace chatloop::http {

void read_constraint(Fields& fields, wire::Parameters& parameters);
void read_tools(Fields& fields, Ask& ask);  // after read_constraint
void read_template_arguments(Fields& fields, wire::Parameters& parameters);

}  // namespace chatloop::http
