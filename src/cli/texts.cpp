#include "cli/texts.h"

#include <iostream>

#include "perceiver/base/error.h"

namespace perceiver::cli {

std::vector<std::string> read_texts(const std::vector<std::string>& given) {
  constexpr size_t kLongest = size_t{1} << 20;
  std::vector<std::string> texts;
  for (const std::string& text : given) {
    if (text != "-") {
      texts.push_back(text);
      continue;
    }
    std::string line;
    for (char c = 0; std::cin.get(c);) {
      if (c == '\n') {
        texts.push_back(std::move(line));
        line.clear();
      } else if (line.size() == kLongest) {
        throw Error(ErrorCode::kFormat, "standard input: a line is longer than 1 MiB");
      } else {
        line += c;
      }
    }
    if (!line.empty()) {
      texts.push_back(std::move(line));
    }
  }
  if (texts.empty()) {
    throw Error(ErrorCode::kArgument, "standard input: no text");
  }
  return texts;
}

}  // namespace perceiver::cli
