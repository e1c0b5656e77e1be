#include "io/pickle_machine.h"

#include <bit>
#include <charconv>
#include <cstring>
#include <optional>

#include "io/pickle_text.h"

namespace perceiver::io {
namespace {

// A checkpoint of the largest released model takes some 20,000 opcodes.
constexpr uint64_t kMaxSteps = uint64_t{1} << 23;
constexpr size_t kMaxNodes = size_t{1} << 20;
constexpr size_t kMaxMemo = size_t{1} << 20;
constexpr int kHighestProtocol = 5;

}  // namespace

PickleValue* PickleHandler::persistent(PickleMachine& machine, PickleValue&) {
  machine.refuse("a persistent id where none belongs");
}

const PickleValue* PickleValue::find(std::string_view key) const {
  const PickleValue* found = nullptr;
  for (size_t i = 0; kind == PickleKind::kDict && i + 1 < items.size(); i += 2) {
    if (items[i]->is_text() && items[i]->text == key) {
      found = items[i + 1];
    }
  }
  return found;
}

void PickleMachine::refuse(const std::string& why) const {
  file_.refuse(cat("pickle byte ", position_, ": ", why));
}

PickleValue* PickleMachine::run() {
  for (uint64_t step = 0; step < kMaxSteps; ++step) {
    const char op = take(1)[0];
    if (op == '.') {
      if (stack_.size() != 1 || !marks_.empty()) {
        refuse("ends with unfinished values");
      }
      return pop();
    }
    const bool known = step_text(op) || step_memo(op) || step_tuple_or_list(op) ||
                       step_container(op) || step_call(op) || step_constant(op) ||
                       step_text_line(op);
    if (!known) {
      const auto byte = static_cast<unsigned char>(op);
      refuse(cat("opcode ", static_cast<int>(byte), " is not part of a checkpoint"));
    }
  }
  refuse("too many opcodes");
}

PickleValue* PickleMachine::make(PickleKind kind) {
  if (nodes_.size() >= kMaxNodes) {
    refuse("too many values");
  }
  PickleValue& value = nodes_.emplace_back();
  value.kind = kind;
  return &value;
}

PickleValue* PickleMachine::make_object(std::unique_ptr<PickleObject> object) {
  PickleValue* value = make(PickleKind::kObject);
  value->object = std::move(object);
  return value;
}

// --- input ---------------------------------------------------------------------------------------

std::string_view PickleMachine::take(uint64_t count) {
  if (count > input_.size() - position_) {
    refuse("the file ends too early");
  }
  const std::string_view taken = input_.substr(position_, count);
  position_ += count;
  return taken;
}

std::string_view PickleMachine::take_line() {
  const size_t end = input_.find('\n', position_);
  if (end == std::string_view::npos) {
    refuse("the file ends too early");
  }
  const std::string_view line = take(end - position_);
  take(1);
  return line;
}

uint64_t PickleMachine::take_unsigned(size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, take(bytes).data(), bytes);
  return value;
}

// --- stack ---------------------------------------------------------------------------------------

void PickleMachine::push(PickleValue* value) {
  stack_.push_back(value);
}

PickleValue* PickleMachine::top() const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) {
    refuse("an operation lacks its operand");
  }
  return stack_.back();
}

PickleValue* PickleMachine::pop() {
  PickleValue* value = top();
  stack_.pop_back();
  return value;
}

std::vector<PickleValue*> PickleMachine::pop_to_mark() {
  if (marks_.empty()) {
    refuse("an operation lacks its mark");
  }
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleValue*> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

// --- constants -----------------------------------------------------------------------------------

void PickleMachine::push_int(int64_t value, PickleKind kind) {
  PickleValue* node = make(kind);
  node->integer = value;
  push(node);
}

void PickleMachine::push_text(PickleKind kind, std::string_view text) {
  PickleValue* node = make(kind);
  node->text = text;
  push(node);
}

void PickleMachine::push_owned(PickleKind kind, std::string text) {
  push_text(kind, strings_.emplace_back(std::move(text)));
}

void PickleMachine::push_list(PickleKind kind, std::vector<PickleValue*> items) {
  PickleValue* node = make(kind);
  node->items = std::move(items);
  push(node);
}

void PickleMachine::push_long(std::string_view bytes) {
  if (bytes.size() > sizeof(int64_t)) {
    push_text(PickleKind::kHugeInt, bytes);
    return;
  }
  const bool negative = !bytes.empty() && (static_cast<unsigned char>(bytes.back()) & 0x80u) != 0;
  uint64_t value = negative ? ~uint64_t{0} : 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  push_int(std::bit_cast<int64_t>(value));
}

void PickleMachine::push_decimal(std::string_view digits) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    refuse(cat("\"", printable(digits), "\" is not an integer we take"));
  }
  push_int(value);
}

void PickleMachine::push_double(double value) {
  PickleValue* node = make(PickleKind::kFloat);
  node->number = value;
  push(node);
}

bool PickleMachine::step_constant(char op) {
  switch (op) {
    case 'N':
      push(make(PickleKind::kNone));
      return true;
    case '\x88':
    case '\x89':
      push_int(op == '\x88' ? 1 : 0, PickleKind::kBool);
      return true;
    case 'J':  // BININT
      push_int(static_cast<int32_t>(static_cast<uint32_t>(take_unsigned(4))));
      return true;
    case 'K':  // BININT1
      push_int(static_cast<int64_t>(take_unsigned(1)));
      return true;
    case 'M':  // BININT2
      push_int(static_cast<int64_t>(take_unsigned(2)));
      return true;
    case '\x8a':  // LONG1
      push_long(take_sized(1));
      return true;
    case '\x8b':  // LONG4
      push_long(take_sized(4));
      return true;
    case 'G': {  // BINFLOAT, big-endian
      push_double(std::bit_cast<double>(__builtin_bswap64(take_unsigned(8))));
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_text(char op) {
  switch (op) {
    case '\x8c':  // SHORT_BINUNICODE
      push_text(PickleKind::kText, take_sized(1));
      return true;
    case 'X':  // BINUNICODE
      push_text(PickleKind::kText, take_sized(4));
      return true;
    case '\x8d':  // BINUNICODE8
      push_text(PickleKind::kText, take_sized(8));
      return true;
    case 'C':  // SHORT_BINBYTES
      push_text(PickleKind::kBytes, take_sized(1));
      return true;
    case 'B':  // BINBYTES
      push_text(PickleKind::kBytes, take_sized(4));
      return true;
    case '\x8e':  // BINBYTES8
    case '\x96':  // BYTEARRAY8
      push_text(PickleKind::kBytes, take_sized(8));
      return true;
    case 'U':  // SHORT_BINSTRING
      push_text(PickleKind::kString, take_sized(1));
      return true;
    case 'T':  // BINSTRING
      push_text(PickleKind::kString, take_sized(4));
      return true;
    default:
      return false;
  }
}

// Protocol 0 writes every constant as a line of text.
bool PickleMachine::step_text_line(char op) {
  switch (op) {
    case 'I': {
      const std::string_view line = take_line();
      if (line == "00" || line == "01") {
        push_int(line[1] - '0', PickleKind::kBool);
      } else {
        push_decimal(line);
      }
      return true;
    }
    case 'L': {
      std::string_view line = take_line();
      line.remove_suffix(line.ends_with('L') ? 1 : 0);
      push_decimal(line);
      return true;
    }
    case 'F': {
      const std::string_view line = take_line();
      double value = 0.0;
      const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value);
      if (error != std::errc{} || end != line.data() + line.size()) {
        refuse(cat("\"", printable(line), "\" is not a number"));
      }
      push_double(value);
      return true;
    }
    case 'S':
    case 'V': {
      std::optional<std::string> text =
          op == 'S' ? unescape_string(take_line()) : unescape_unicode(take_line());
      if (!text) {
        refuse("a text with a broken escape");
      }
      push_owned(op == 'S' ? PickleKind::kString : PickleKind::kText, std::move(*text));
      return true;
    }
    default:
      return false;
  }
}

// --- containers ----------------------------------------------------------------------------------

bool PickleMachine::step_tuple_or_list(char op) {
  switch (op) {
    case ')':
      push_list(PickleKind::kTuple, {});
      return true;
    case '\x85':    // TUPLE1
    case '\x86':    // TUPLE2
    case '\x87': {  // TUPLE3
      std::vector<PickleValue*> items(static_cast<size_t>(op - '\x84'));
      for (size_t i = items.size(); i > 0; --i) {
        items[i - 1] = pop();
      }
      push_list(PickleKind::kTuple, std::move(items));
      return true;
    }
    case 't':
      push_list(PickleKind::kTuple, pop_to_mark());
      return true;
    case ']':
      push_list(PickleKind::kList, {});
      return true;
    case 'l':
      push_list(PickleKind::kList, pop_to_mark());
      return true;
    case 'a': {
      PickleValue* item = pop();
      append_items({item});
      return true;
    }
    case 'e':
      append_items(pop_to_mark());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::step_container(char op) {
  switch (op) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '}':
      push_list(PickleKind::kDict, {});
      return true;
    case 'd':
    case 'u': {
      std::vector<PickleValue*> pairs = pop_to_mark();
      if (op == 'd') {
        push_list(PickleKind::kDict, {});
      }
      set_items(std::move(pairs));
      return true;
    }
    case 's': {
      PickleValue* value = pop();
      PickleValue* key = pop();
      set_items({key, value});
      return true;
    }
    case '0':  // POP
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
      } else {
        pop();
      }
      return true;
    case '1':  // POP_MARK
      pop_to_mark();
      return true;
    case '2':  // DUP
      push(top());
      return true;
    default:
      return false;
  }
}

void PickleMachine::set_items(std::vector<PickleValue*> pairs) {
  PickleValue* dict = top();
  if (!dict->is(PickleKind::kDict) || pairs.size() % 2 != 0) {
    refuse("items set on what is not a dict");
  }
  dict->items.insert(dict->items.end(), pairs.begin(), pairs.end());
}

void PickleMachine::append_items(std::vector<PickleValue*> items) {
  PickleValue* list = top();
  if (!list->is(PickleKind::kList)) {
    refuse("items appended to what is not a list");
  }
  list->items.insert(list->items.end(), items.begin(), items.end());
}

// --- memo ----------------------------------------------------------------------------------------

bool PickleMachine::step_memo(char op) {
  const auto index_in_line = [&] {
    const std::string_view line = take_line();
    uint64_t index = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), index);
    if (error != std::errc{} || end != line.data() + line.size()) {
      refuse("a memo index that is no number");
    }
    return index;
  };
  switch (op) {
    case '\x94':  // MEMOIZE
      remember(memo_.size());
      return true;
    case 'q':  // BINPUT
      remember(take_unsigned(1));
      return true;
    case 'r':  // LONG_BINPUT
      remember(take_unsigned(4));
      return true;
    case 'p':
      remember(index_in_line());
      return true;
    case 'h':  // BINGET
      recall(take_unsigned(1));
      return true;
    case 'j':  // LONG_BINGET
      recall(take_unsigned(4));
      return true;
    case 'g':
      recall(index_in_line());
      return true;
    default:
      return false;
  }
}

void PickleMachine::remember(uint64_t index) {
  if (memo_.size() >= kMaxMemo) {
    refuse("too many memo entries");
  }
  memo_[index] = top();
}

void PickleMachine::recall(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) {
    refuse(cat("memo entry ", index, " was never written"));
  }
  push(found->second);
}

// --- globals and calls ---------------------------------------------------------------------------

bool PickleMachine::step_call(char op) {
  switch (op) {
    case '\x80': {  // PROTO
      const uint64_t protocol = take_unsigned(1);
      if (protocol > kHighestProtocol) {
        refuse(cat("protocol ", protocol, " is newer than ", kHighestProtocol));
      }
      return true;
    }
    case '\x95': {  // FRAME: only a hint for buffering
      const uint64_t length = take_unsigned(8);
      if (length > input_.size() - position_) {
        refuse("the file ends too early");
      }
      return true;
    }
    case 'c': {
      const std::string_view module = take_line();
      push_global(module, take_line());
      return true;
    }
    case '\x93': {  // STACK_GLOBAL
      const PickleValue* name = pop();
      const PickleValue* module = pop();
      if (!name->is_text() || !module->is_text()) {
        refuse("a global whose name is not text");
      }
      push_global(module->text, name->text);
      return true;
    }
    case 'R':       // REDUCE
    case '\x81': {  // NEWOBJ: cls.__new__(cls, *arguments), for these classes the same
      PickleValue* arguments = pop();
      call(pop(), arguments);
      return true;
    }
    case 'b': {
      PickleValue* state = pop();
      handler_.build(*this, *top(), *state);
      return true;
    }
    case 'Q': {  // BINPERSID
      PickleValue* id = pop();
      push(handler_.persistent(*this, *id));
      return true;
    }
    default:
      return false;
  }
}

void PickleMachine::push_global(std::string_view module, std::string_view name) {
  if (!handler_.allows(module, name)) {
    refuse(cat("refused to load \"", printable(module), ".", printable(name),
               "\": a checkpoint may hold arrays and plain containers only"));
  }
  push_owned(PickleKind::kGlobal, cat(module, ".", name));
}

void PickleMachine::call(PickleValue* function, PickleValue* arguments) {
  if (!function->is(PickleKind::kGlobal) || !arguments->is(PickleKind::kTuple)) {
    refuse("a call of what is not a function");
  }
  push(handler_.call(*this, *function, *arguments));
}

std::vector<std::pair<std::string_view, PickleValue*>> text_items(const FileBytes& file,
                                                                  const PickleValue& dict,
                                                                  const std::string& what) {
  if (!dict.is(PickleKind::kDict)) {
    file.refuse(what + " is not a dict");
  }
  std::vector<std::pair<std::string_view, PickleValue*>> pairs;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    if (!dict.items[i]->is_text()) {
      file.refuse(what + " has a key that is not text");
    }
    pairs.emplace_back(dict.items[i]->text, dict.items[i + 1]);
  }
  return pairs;
}

}  // namespace perceiver::io
