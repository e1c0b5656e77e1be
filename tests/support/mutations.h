#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

namespace perceiver::test {

/// Copy `index` of a file, damaged in one to four places: a bit or byte changed, a part left out,
/// doubled or moved behind the end, the rest cut off, or something put in that readers stumble
/// over. The same index gives the same bytes on every machine.
inline std::string mutated(std::string_view seed, uint64_t index) {
  static constexpr std::array<std::string_view, 22> kStumbling{std::string_view("\0\0\0\0", 4),
                                                               "\xff\xff\xff\xff",
                                                               "\x7f\xff\xff\xff",
                                                               "\xff\xff\xff\x7f",
                                                               std::string_view("\0", 1),
                                                               "\r\n",
                                                               "\n\n",
                                                               "\r",
                                                               "\t",
                                                               ",",
                                                               "\"",
                                                               "\"\"",
                                                               "'",
                                                               "#",
                                                               "-1",
                                                               "1e999",
                                                               "nan",
                                                               "0x1p-1080",
                                                               "9223372036854775808",
                                                               "\xEF\xBB\xBF",
                                                               "../",
                                                               "{\"[("};
  std::mt19937_64 random(index);
  const auto below = [&](size_t n) {
    return static_cast<size_t>(random() % std::max<size_t>(n, 1));
  };
  std::string bytes(seed);
  for (size_t change = 1 + below(4); change > 0; --change) {
    const size_t at = below(bytes.size() + 1);
    const size_t run = below(std::min<size_t>(bytes.size() - at, 64) + 1);
    switch (below(7)) {
      case 0:
        if (at < bytes.size()) {
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        }
        break;
      case 1:
        if (at < bytes.size()) {
          bytes[at] = static_cast<char>(random());
        }
        break;
      case 2:
        bytes.erase(at, run);
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, run));
        break;
      case 4:
        bytes.insert(at, kStumbling[below(kStumbling.size())]);
        break;
      case 5: {
        const std::string_view text = kStumbling[below(kStumbling.size())];
        bytes.replace(at, std::min(text.size(), bytes.size() - at), text);
        break;
      }
      default:
        bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace perceiver::test
