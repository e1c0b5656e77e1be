#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/file_bytes.h"

namespace perceiver::io {

/// Something a handler made of an allowed call: a tensor, a dtype. Described, not yet built.
struct PickleObject {
  virtual ~PickleObject() = default;
};

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,
  kHugeInt,  ///< does not fit 64 bits; `text` holds its little-endian bytes
  kFloat,
  kBytes,
  kText,    ///< unicode, `text` is UTF-8
  kString,  ///< a `str` of Python 2: bytes or text, as its reader needs it
  kTuple,
  kList,
  kDict,    ///< `items` alternates keys and values
  kGlobal,  ///< `text` is "module.name", one the handler allowed
  kObject,
};

/// A node of what a pickle describes. Nodes live in their machine, so shared and even cyclic
/// structures need no care and freeing them never recurses.
struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  int64_t integer = 0;  ///< kBool, kInt
  double number = 0.0;  ///< kFloat
  std::string_view text;
  std::vector<PickleValue*> items;  ///< kTuple, kList, kDict
  std::unique_ptr<PickleObject> object;

  bool is(PickleKind wanted) const { return kind == wanted; }
  bool is_text() const { return kind == PickleKind::kText || kind == PickleKind::kString; }
  bool is_bytes() const { return kind == PickleKind::kBytes || kind == PickleKind::kString; }
  /// A text key's value in a dict, the last one given; null if there is none.
  const PickleValue* find(std::string_view key) const;
  template <typename T>
  T* as() const {
    return dynamic_cast<T*>(object.get());
  }
};

class PickleMachine;

/// What one file format adds to the machine: its allow-list and the meaning of each allowed name.
/// Handlers interpret; nothing named by a file is ever called.
class PickleHandler {
 public:
  virtual ~PickleHandler() = default;
  virtual bool allows(std::string_view module, std::string_view name) const = 0;
  /// `function(*arguments)` of an allowed global.
  virtual PickleValue* call(PickleMachine& machine, const PickleValue& function,
                            PickleValue& arguments) = 0;
  /// `object.__setstate__(state)`.
  virtual void build(PickleMachine& machine, PickleValue& object, PickleValue& state) = 0;
  /// A persistent id, by which torch refers to storages.
  virtual PickleValue* persistent(PickleMachine& machine, PickleValue& id);
};

/// Interprets pickle protocols 0 to 5 (Python's pickletools.py describes the opcodes) into a graph
/// of plain values. Byte strings and texts are views of the input. Opcodes, nodes, memo and stack
/// are bounded, so memory stays bounded too, whatever the file says.
class PickleMachine {
 public:
  /// @param file  its `where` is used in messages; `bytes` may go on after the pickle's end
  PickleMachine(const FileBytes& file, PickleHandler& handler)
      : file_(file), input_(file.bytes), handler_(handler) {}

  /// @throws Error(kFormat) for a global outside the allow-list, or anything malformed
  PickleValue* run();
  /// Bytes used up to and with the STOP opcode.
  size_t consumed() const { return position_; }

  PickleValue* make(PickleKind kind);
  PickleValue* make_object(std::unique_ptr<PickleObject> object);
  [[noreturn]] void refuse(const std::string& why) const;
  [[noreturn]] void unsupported(const std::string& why) const { file_.unsupported(why); }

 private:
  bool step_constant(char op);
  bool step_text(char op);
  bool step_text_line(char op);
  bool step_container(char op);
  bool step_tuple_or_list(char op);
  bool step_memo(char op);
  bool step_call(char op);

  std::string_view take(uint64_t count);
  std::string_view take_line();
  uint64_t take_unsigned(size_t bytes);
  std::string_view take_sized(size_t length_bytes) { return take(take_unsigned(length_bytes)); }

  void push(PickleValue* value);
  PickleValue* pop();
  PickleValue* top() const;
  std::vector<PickleValue*> pop_to_mark();

  void push_int(int64_t value, PickleKind kind = PickleKind::kInt);
  void push_text(PickleKind kind, std::string_view text);
  void push_owned(PickleKind kind, std::string text);
  void push_list(PickleKind kind, std::vector<PickleValue*> items);
  void push_long(std::string_view little_endian);
  void push_decimal(std::string_view digits);
  void push_double(double value);
  void push_global(std::string_view module, std::string_view name);
  void set_items(std::vector<PickleValue*> pairs);
  void append_items(std::vector<PickleValue*> items);
  void remember(uint64_t index);
  void recall(uint64_t index);
  void call(PickleValue* function, PickleValue* arguments);

  const FileBytes& file_;
  std::string_view input_;
  PickleHandler& handler_;
  size_t position_ = 0;
  std::deque<PickleValue> nodes_;
  std::deque<std::string> strings_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

/// The `(key, value)` pairs of a dict.
/// @throws Error(kFormat) naming `what` if it is no dict or has a key that is not text
std::vector<std::pair<std::string_view, PickleValue*>> text_items(const FileBytes& file,
                                                                  const PickleValue& dict,
                                                                  const std::string& what);

}  // namespace perceiver::io
