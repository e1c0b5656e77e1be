#pragma once

#include <string>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::train::test {

/// Expects an Error whose line contains `message`.
template <typename Call>
void expect_error(const Call& call, const std::string& message) {
  try {
    call();
    ADD_FAILURE() << "accepted; wanted: " << message;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
  }
}

}  // namespace perceiver::train::test
