#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace perceiver::test {

/// Path of a file or folder of the development data (oracle fixtures, real pictures, text, sound)
/// that lies beside a checkout and never inside it; nothing when this machine lacks it.
/// PERCEIVER_SHARED names another place for it.
inline std::optional<std::filesystem::path> shared_path(const std::string& relative) {
  const char* given = std::getenv("PERCEIVER_SHARED");
  const std::filesystem::path root =
      given != nullptr ? std::filesystem::path(given)
                       : std::filesystem::path(PERCEIVER_SOURCE_DIR) / ".." / "shared";
  std::error_code ignored;
  if (!std::filesystem::exists(root / relative, ignored)) {
    return std::nullopt;
  }
  return root / relative;
}

}  // namespace perceiver::test

/// Declares `variable`, or skips the test with the reason when the development data is absent.
#define PERCEIVER_SHARED_OR_SKIP(variable, relative)                                           \
  const auto variable##_optional = ::perceiver::test::shared_path(relative);                   \
  if (!variable##_optional) {                                                                  \
    GTEST_SKIP() << "needs ../shared/" << (relative) << ", which is not beside this checkout"; \
  }                                                                                            \
  const std::filesystem::path variable = *variable##_optional
