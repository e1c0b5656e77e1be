#include "perceiver/io/bytes_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::io {
namespace {

using Vocabulary = ByteVocabulary;

constexpr std::array<std::string_view, Vocabulary::kNumSpecial> kSpecialNames = {
    "[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]"};

struct Token {
  int64_t id;
  TokenSource source;
};

/// Special token spelt at the start of `text`, or -1. No name is a prefix of another and none holds
/// a second "[", so taking the leftmost match equals transformers' trie.
int64_t special_at_start(std::string_view text) {
  for (size_t id = 0; id < kSpecialNames.size(); ++id) {
    if (text.substr(0, kSpecialNames[id].size()) == kSpecialNames[id]) {
      return static_cast<int64_t>(id);
    }
  }
  return -1;
}

std::vector<Token> split(std::string_view text, int which, bool read_special) {
  std::vector<Token> tokens;
  tokens.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const int64_t special =
        read_special && text[at] == '[' ? special_at_start(text.substr(at)) : -1;
    const size_t length = special >= 0 ? kSpecialNames[static_cast<size_t>(special)].size() : 1;
    const int64_t id =
        special >= 0 ? special : static_cast<unsigned char>(text[at]) + Vocabulary::kNumSpecial;
    tokens.push_back({id, {which, static_cast<int64_t>(at), static_cast<int64_t>(at + length)}});
    at += length;
  }
  return tokens;
}

int64_t length_of(const std::vector<Token>& tokens) {
  return static_cast<int64_t>(tokens.size());
}

void drop_last(std::vector<Token>& tokens, int64_t count) {
  tokens.resize(static_cast<size_t>(std::max<int64_t>(0, length_of(tokens) - count)));
}

/// Removes `surplus` tokens, first from the longer text until both are equal, then in turns; the
/// odd one comes from the second text unless the first was longer (transformers' "longest_first").
void truncate_pair(std::vector<Token>& first, std::vector<Token>& second, int64_t surplus) {
  const int64_t difference = length_of(first) - length_of(second);
  const int64_t from_longer = std::min(std::abs(difference), surplus);
  const int64_t rest = surplus - from_longer;
  drop_last(first, rest / 2 + (difference > 0 ? from_longer : 0));
  drop_last(second, rest - rest / 2 + (difference > 0 ? 0 : from_longer));
}

void append(EncodedText& out, const Token& token, uint8_t valid) {
  out.ids.push_back(token.id);
  out.mask.push_back(valid);
  out.sources.push_back(token.source);
}

void append_all(EncodedText& out, const std::vector<Token>& tokens) {
  for (const Token& token : tokens) {
    append(out, token, 1);
  }
}

void check_options(const EncodeOptions& options, int64_t added) {
  if (options.max_length < 0) {
    throw Error(ErrorCode::kArgument,
                cat("max_length must not be negative, got ", options.max_length));
  }
  if (options.max_length == 0 && (options.pad || options.truncate)) {
    throw Error(ErrorCode::kArgument, "padding and truncation need a max_length, got 0");
  }
  if (options.truncate && options.max_length < added) {
    throw Error(ErrorCode::kArgument, cat("max_length ", options.max_length,
                                          " leaves no room for the ", added, " special tokens"));
  }
}

EncodedText encode(std::vector<Token> first, std::vector<Token> second, bool pair,
                   const EncodeOptions& options) {
  const int64_t added = !options.add_special_tokens ? 0 : pair ? 3 : 2;
  check_options(options, added);
  const int64_t total = length_of(first) + length_of(second) + added;
  if (options.max_length > 0 && total > options.max_length) {
    if (!options.truncate) {
      throw Error(ErrorCode::kArgument, cat("the text takes ", total, " tokens",
                                            added > 0 ? " with its special tokens" : "",
                                            " but the maximum is ", options.max_length));
    }
    const int64_t surplus = total - options.max_length;
    if (pair) {
      truncate_pair(first, second, surplus);
    } else {
      drop_last(first, surplus);
    }
  }

  EncodedText out;
  if (options.add_special_tokens) {
    append(out, {Vocabulary::kCls, {}}, 1);
  }
  append_all(out, first);
  if (options.add_special_tokens) {
    append(out, {Vocabulary::kSep, {}}, 1);
  }
  append_all(out, second);
  if (options.add_special_tokens && pair) {
    append(out, {Vocabulary::kSep, {}}, 1);
  }
  while (options.pad && static_cast<int64_t>(out.ids.size()) < options.max_length) {
    append(out, {Vocabulary::kPad, {}}, 0);
  }
  return out;
}

/// Length of the well-formed UTF-8 character at the start of `bytes`, or minus the length of the
/// maximal ill-formed part (Unicode 15, table 3-7).
int utf8_step(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    return 1;
  }
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : lead >= 0xE0 && lead <= 0xEF ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 1;
  if (length == 1) {
    return -1;
  }
  unsigned char low = 0x80, high = 0xBF;  // the second byte's range depends on the first
  if (lead == 0xE0) {
    low = 0xA0;
  } else if (lead == 0xED) {
    high = 0x9F;
  } else if (lead == 0xF0) {
    low = 0x90;
  } else if (lead == 0xF4) {
    high = 0x8F;
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= bytes.size() || byte(i) < low || byte(i) > high) {
      return -static_cast<int>(i);
    }
    low = 0x80;
    high = 0xBF;
  }
  return static_cast<int>(length);
}

void check_id(int64_t id) {
  if (id < 0 || id >= Vocabulary::kSize) {
    throw Error(ErrorCode::kArgument,
                cat("token id ", id, " is outside the vocabulary [0, ", Vocabulary::kSize, ")"));
  }
}

}  // namespace

int64_t EncodedText::position_of_byte(int64_t byte, int text) const {
  for (size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].text == text && byte >= sources[i].begin && byte < sources[i].end) {
      return static_cast<int64_t>(i);
    }
  }
  throw Error(ErrorCode::kArgument, cat("no token holds byte ", byte, " of text ", text));
}

std::vector<int64_t> EncodedText::mask_positions() const {
  std::vector<int64_t> positions;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == Vocabulary::kMask) {
      positions.push_back(static_cast<int64_t>(i));
    }
  }
  return positions;
}

EncodedText encode_text(std::string_view text, const EncodeOptions& options) {
  return encode(split(text, 0, options.read_special_tokens), {}, false, options);
}

EncodedText encode_text_pair(std::string_view first, std::string_view second,
                             const EncodeOptions& options) {
  return encode(split(first, 0, options.read_special_tokens),
                split(second, 1, options.read_special_tokens), true, options);
}

std::string decode_text(const std::vector<int64_t>& ids, bool skip_special_tokens) {
  std::string bytes;
  bytes.reserve(ids.size());
  for (const int64_t id : ids) {
    check_id(id);
    if (id >= Vocabulary::kNumSpecial) {
      bytes.push_back(static_cast<char>(id - Vocabulary::kNumSpecial));
    } else if (!skip_special_tokens) {
      bytes.append(kSpecialNames[static_cast<size_t>(id)]);
    }
  }
  std::string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const int step = utf8_step(std::string_view(bytes).substr(at));
    if (step > 0) {
      text.append(bytes, at, static_cast<size_t>(step));
    } else {
      text.append("\xEF\xBF\xBD");  // U+FFFD
    }
    at += static_cast<size_t>(std::abs(step));
  }
  return text;
}

std::string token_name(int64_t id) {
  check_id(id);
  if (id < Vocabulary::kNumSpecial) {
    return std::string(kSpecialNames[static_cast<size_t>(id)]);
  }
  const auto byte = static_cast<unsigned>(id - Vocabulary::kNumSpecial);
  if (byte >= 0x20 && byte < 0x7F) {
    return std::string(1, static_cast<char>(byte));
  }
  constexpr char kDigits[] = "0123456789abcdef";
  return std::string("\\x") + kDigits[byte >> 4] + kDigits[byte & 15];
}

}  // namespace perceiver::io
