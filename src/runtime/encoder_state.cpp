#include "runtime/encoder_state.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::runtime {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kArgument, cat("[encoder state] ", what));
}

/// What identity() lists, for messages.
constexpr std::array<const char*, 6> kIdentity = {
    "plan (0: values, 1: tokens)", "heads", "latents", "width", "plain width", "weights"};

void check_same(const std::vector<int64_t>& mine, const std::vector<int64_t>& other) {
  for (size_t i = 0; i < kIdentity.size(); ++i) {
    if (mine[i] != other[i]) {
      refuse(cat("is of another model: ", kIdentity[i], " ", other[i], ", here ", mine[i]));
    }
  }
}

const Array& tensor(const ArrayMap& saved, const std::string& name, DType dtype,
                    const std::vector<int64_t>& shape) {
  const auto found = saved.find(name);
  if (found == saved.end()) {
    refuse(cat("tensor ", name, " is missing"));
  }
  if (found->second.dtype() != dtype || found->second.shape() != shape) {
    refuse(cat("tensor ", name, " is ", dtype_name(found->second.dtype()), " ",
               shape_string(found->second.shape()), ", this state has ", dtype_name(dtype), " ",
               shape_string(shape)));
  }
  return found->second;
}

template <typename T>
std::vector<T> values(const Array& array) {
  return {array.data<T>(), array.data<T>() + array.numel()};
}

std::vector<int64_t> extents_of(const ModelSpec& spec, const std::string& modality,
                                const std::map<std::string, std::vector<int64_t>>& given) {
  const auto found = given.find(modality);
  return found != given.end() ? found->second : spec.input(modality).index_dims;
}

}  // namespace

StreamedState::StreamedState(const StateContext& context,
                             std::shared_ptr<const CrossAttendIn::Queries> queries, int64_t batch,
                             std::map<std::string, std::vector<int64_t>> extents)
    : context_(context), queries_(std::move(queries)), extents_(std::move(extents)) {
  for (const auto& [name, unused] : extents_) {
    context_.spec.input(name);  // throws on a name the model does not read
  }
  state_ = context_.cross_attend.empty_state(*queries_);
  if (state_.batch != batch) {
    throw Error(ErrorCode::kInternal,
                cat("[encoder state] queries are for a batch of ", state_.batch, ", not ", batch));
  }
}

void StreamedState::push(const std::string& modality, const Array& block, int64_t begin,
                         const Array& mask) {
  const InputBlock read = read_block(context_.spec, context_.shape, context_.weights, modality,
                                     block, mask, extents_of(context_.spec, modality, extents_),
                                     begin, context_.workspace, context_.cache);
  if (read.source->batch() != state_.batch) {
    throw Error(ErrorCode::kShape, cat("[input ", modality, "] a block has a batch of ",
                                       read.source->batch(), ", the state ", state_.batch));
  }
  context_.cross_attend.read(*queries_, *read.source, 0, read.source->count(), read.first_token,
                             state_, context_.workspace);
}

std::vector<int64_t> StreamedState::identity() const {
  const uint64_t fingerprint = context_.cross_attend.fingerprint();
  int64_t weights = 0;
  std::memcpy(&weights, &fingerprint, sizeof weights);
  const bool textbook = CrossAttendIn::plan_of(*queries_) == Plan::kTextbook;
  return {textbook ? 0 : 1, state_.heads,       state_.latents,
          state_.width,     state_.plain_width, weights};
}

void StreamedState::merge(const EncoderState& other) {
  const auto* same = dynamic_cast<const StreamedState*>(&other);
  if (same == nullptr) {
    refuse("is of another engine");
  }
  if (same == this) {
    refuse("can't be merged into itself: its tokens would count twice");
  }
  check_same(identity(), same->identity());
  state_.merge(same->state_);
}

ArrayMap StreamedState::save() const {
  const ReadState& s = state_;
  ArrayMap saved;
  const std::vector<int64_t> same = identity();
  saved["model"] = Array::of<int64_t>({static_cast<int64_t>(same.size())}, same);
  saved["tokens"] = Array::of<int64_t>({1}, {s.tokens});
  saved["lse"] = Array::of<float>({s.batch, s.heads, s.latents}, s.lse);
  saved["mean"] = Array::of<float>({s.batch, s.heads, s.latents, s.width}, s.mean);
  if (s.plain_width > 0) {
    saved["plain"] = Array::of<float>({s.batch, s.plain_width}, s.plain);
    saved["plain_tokens"] = Array::of<double>({s.batch}, s.plain_tokens);
  }
  return saved;
}

void StreamedState::load(const ArrayMap& saved) {
  const std::vector<int64_t> same = identity();
  const Array& model = tensor(saved, "model", DType::kI64, {static_cast<int64_t>(same.size())});
  check_same(same, values<int64_t>(model));
  ReadState read = state_;
  const ReadState& s = state_;
  read.tokens = values<int64_t>(tensor(saved, "tokens", DType::kI64, {1}))[0];
  read.lse = values<float>(tensor(saved, "lse", DType::kF32, {s.batch, s.heads, s.latents}));
  read.mean =
      values<float>(tensor(saved, "mean", DType::kF32, {s.batch, s.heads, s.latents, s.width}));
  if (s.plain_width > 0) {
    read.plain = values<float>(tensor(saved, "plain", DType::kF32, {s.batch, s.plain_width}));
    read.plain_tokens = values<double>(tensor(saved, "plain_tokens", DType::kF64, {s.batch}));
  }
  if (read.tokens < 0) {
    refuse(cat("has read ", read.tokens, " tokens"));
  }
  state_ = std::move(read);
}

}  // namespace perceiver::runtime
