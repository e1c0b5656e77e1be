#include "perceiver/base/json.h"

#include <unordered_set>
#include <vector>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/file.h"
#include "perceiver/base/str.h"

namespace perceiver {
namespace {

constexpr int kMaxDepth = 64;
constexpr uint64_t kMaxJsonBytes = uint64_t{64} << 20;

// Walks the text and tells how far the parser has read, which its callbacks do not.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountingIterator operator++(int) {
    const CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t* count_;
};

// nlohmann's messages start with "[json.exception.parse_error.101] ".
std::string plain_message(const std::string& message) {
  const size_t end = message.find("] ");
  const bool tagged = message.starts_with("[json.exception") && end != std::string::npos;
  return tagged ? message.substr(end + 2) : message;
}

class Checker {
 public:
  Checker(const std::string& where, const size_t* offset) : where_(where), offset_(offset) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= kMaxDepth) {
        refuse(cat("nested deeper than ", kMaxDepth, " levels"));
      }
      keys_.emplace_back();
    } else if (event == Json::parse_event_t::object_end ||
               event == Json::parse_event_t::array_end) {
      keys_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        refuse(cat("key \"", printable(key), "\" appears twice"));
      }
    }
    return true;
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kFormat, cat(where_, ": not usable JSON: ", why, " at byte ", *offset_));
  }

  const std::string& where_;
  const size_t* offset_;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  size_t offset = 0;
  Checker checker(where, &offset);
  try {
    return Json::parse(CountingIterator(text.data(), &offset),
                       CountingIterator(text.data() + text.size(), &offset), std::ref(checker));
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::kFormat, cat(where, ": not valid JSON at byte ", offset, ": ",
                                        printable(plain_message(error.what()), 240)));
  }
}

Json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path, kMaxJsonBytes), printable(path.native(), 1024));
}

void write_json(const std::filesystem::path& path, const Json& value) {
  write_file_atomically(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace perceiver
