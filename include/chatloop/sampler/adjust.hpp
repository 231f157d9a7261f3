// From the logits of a row to what rule 11 of docs/numerics.md samples from: what is not allowed or
// masked, biases and penalties, in its order.
#pragma once

#include <span>

#include "chatloop/wire/frames.hpp"

namespace chatloop {

// Whether the sample asks for any of it.
bool adjusts(const wire::Sample& sample);

// z (vocab): finite before; afterwards finite too, or -infinity for a masked id. Ids that are not
// in the vocabulary are passed over.
void adjust_logits(const wire::Sample& sample, std::span<float> z);

}  // namespace chatloop
