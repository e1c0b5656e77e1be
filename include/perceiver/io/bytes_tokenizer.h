#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver::io {

/// UTF-8 bytes as token ids: the tokenizer of the released language model, id = byte + 6.
struct ByteVocabulary {
  static constexpr int64_t kPad = 0;
  static constexpr int64_t kBos = 1;  ///< reserved, never added
  static constexpr int64_t kEos = 2;  ///< reserved, never added
  static constexpr int64_t kMask = 3;
  static constexpr int64_t kCls = 4;
  static constexpr int64_t kSep = 5;
  static constexpr int64_t kNumSpecial = 6;
  static constexpr int64_t kSize = 262;
};

struct EncodeOptions {
  bool add_special_tokens =
      true;  ///< [CLS] text [SEP], pairs [CLS] a [SEP] b [SEP]; DeepMind adds none
  bool read_special_tokens =
      true;  ///< a literal "[MASK]" (or [PAD] [BOS] [EOS] [CLS] [SEP]) is that token
  int64_t max_length = 2048;  ///< tokens, special ones included; 0 = no maximum
  bool pad = false;           ///< fill with [PAD] up to max_length
  bool truncate = false;      ///< cut the end (of the longer text of a pair) instead of refusing
};

/// Where a token came from.
struct TokenSource {
  int text = -1;      ///< 0 first text, 1 second of a pair, -1 added ([CLS], [SEP], [PAD])
  int64_t begin = 0;  ///< bytes [begin, end) of that text: one byte, or a whole literal "[MASK]"
  int64_t end = 0;
};

struct EncodedText {
  std::vector<int64_t> ids;
  std::vector<uint8_t> mask;         ///< 1 = valid, 0 = padding
  std::vector<TokenSource> sources;  ///< one per id

  /// Token that holds byte `byte` of text `text`. @throws Error(kArgument) if it was cut or is past
  /// the end
  int64_t position_of_byte(int64_t byte, int text = 0) const;
  /// Positions of every [MASK], in order.
  std::vector<int64_t> mask_positions() const;
};

/// Same ids and mask as transformers' PerceiverTokenizer (compared with 5.23.0).
/// Bytes that are not UTF-8 are taken as they are.
/// @throws Error(kArgument) when the text is too long, naming both lengths, or an option is
/// impossible
EncodedText encode_text(std::string_view text, const EncodeOptions& options = {});
EncodedText encode_text_pair(std::string_view first, std::string_view second,
                             const EncodeOptions& options = {});

/// Text of `ids`: special tokens by name or left out, bytes that form no UTF-8 replaced by U+FFFD
/// (one per maximal ill-formed part, as Python and browsers do).
/// @throws Error(kArgument) for an id outside [0, 262)
std::string decode_text(const std::vector<int64_t>& ids, bool skip_special_tokens = false);

/// How one id is shown alone: its character, "[MASK]", or "\xe2" for a byte that is not printable
/// ASCII.
std::string token_name(int64_t id);

}  // namespace perceiver::io
