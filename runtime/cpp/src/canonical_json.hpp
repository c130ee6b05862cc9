// One text for one value, byte for byte hffnet.runtime.record.canonical_json: what rows and settings are hashed as.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace hffnet {

// Keys sorted, no spaces, numbers as Python's repr has them. Text must be UTF-8, numbers finite.
std::string canonical_json(const nlohmann::ordered_json& value);

}  // namespace hffnet
