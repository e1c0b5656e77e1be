#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace perceiver {

using Json = nlohmann::json;

/// Parses JSON text that may be hostile: nesting deeper than 64 or a repeated key is refused.
/// @param where  what to call the text in messages, e.g. its path
/// @throws Error(kFormat) with `where` and the byte offset
Json parse_json(std::string_view text, const std::string& where);

/// Reads and parses a JSON file of at most 64 MiB. @throws Error(kIo), Error(kFormat)
Json read_json(const std::filesystem::path& path);

/// Writes indented JSON with a final newline, whole or not at all. @throws Error(kIo)
void write_json(const std::filesystem::path& path, const Json& value);

}  // namespace perceiver
