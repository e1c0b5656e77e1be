#include "runtime/token_source.h"

#include <algorithm>
#include <functional>

#include "perceiver/kernels/attend.h"
#include "perceiver/kernels/rows.h"
#include "runtime/stems.h"
#include "runtime/token_source_cache.h"
#include "runtime/token_source_positions.h"

namespace perceiver::runtime {
namespace {

/// Which part of a whole input a raw array is.
struct Part {
  std::vector<int64_t> extents;  ///< raw extents of the whole
  int64_t begin = 0;             ///< of the raw array on the first axis
};

struct SourceContext {
  const ModelSpec& spec;
  const ModelShape& shape;
  const Weights& weights;
  SourceCache::Parts& cache;
  Workspace& workspace;
};

[[noreturn]] void wrong_shape(const InputSpec& input, const std::string& expected,
                              const Array& given) {
  throw Error(ErrorCode::kShape, cat("[input ", input.name, "] expected ", expected, ", got ",
                                     shape_string(given.shape())));
}

const uint8_t* flag_bytes(const Array& flags) {
  return reinterpret_cast<const uint8_t*>(flags.bytes());
}

/// Bernoulli by hash (splitmix64): depends on nothing but its arguments.
class TokenDraw {
 public:
  TokenDraw() = default;
  TokenDraw(const std::string& name, double probability) : probability_(probability) {
    for (const char letter : name) {
      seed_ = mixed(seed_ ^ static_cast<unsigned char>(letter));
    }
  }

  bool operator()(int64_t b, int64_t token) const {
    const uint64_t bits =
        mixed(mixed(seed_ ^ static_cast<uint64_t>(b)) ^ static_cast<uint64_t>(token));
    return static_cast<double>(bits >> 11) * 0x1p-53 < probability_;
  }

 private:
  static uint64_t mixed(uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31);
  }

  double probability_ = 0;
  uint64_t seed_ = 0;
};

class InputSource : public TokenSource {
 public:
  struct Fields {
    ContentReader content;
    PositionRows positions;
    bool add_positions = false;
    std::shared_ptr<const tokens::SeparablePositions> separable;
    std::vector<int64_t> grid;
    int64_t count = 0;        ///< tokens of this source
    int64_t first_token = 0;  ///< of the whole grid
  };

  InputSource(const InputSpec& input, int64_t batch, Fields fields,
              std::shared_ptr<StemScratch> scratch)
      : fields_(std::move(fields)), scratch_(std::move(scratch)) {
    name_ = input.name;
    batch_ = batch;
    count_ = fields_.count;
    grid_ = fields_.grid;
    content_channels_ = fields_.content.channels();
    if (fields_.positions.defined() && !fields_.add_positions) {
      position_channels_ = fields_.positions.width();
      if (fields_.separable != nullptr && !fields_.positions.has_linears() &&
          fields_.separable->axes.size() <= static_cast<size_t>(kernels::kMaxGridAxes)) {
        factors_ = true;
        positions_ = *fields_.separable;
      }
    }
  }

  int64_t first_token() const { return fields_.first_token; }
  void set_mask(Array mask) { mask_ = std::move(mask); }
  void set_constant(const float* values, int64_t width) {
    constant_ = values;
    constant_channels_ = width;
  }
  void replace(Array flags, const float* token) {
    const uint8_t* first = flag_bytes(flags);
    if (std::any_of(first, first + flags.numel(), [](uint8_t flag) { return flag != 0; })) {
      replaced_ = std::move(flags);
      replace_by(token);
    }
  }
  void replace_by_chance(double probability, const float* token) {
    draw_ = TokenDraw(name_, probability);
    replace_by(token);
  }

  void content(int64_t b, int64_t begin, int64_t end, Matrix out) override {
    fields_.content.read(b, begin, end, out, *scratch_);
  }

  void content_of(int64_t b, const TokenWindow& window, Matrix out) override {
    if (!fields_.content.read_raw(b, window, out)) {
      TokenSource::content_of(b, window, out);
    }
  }

  void forget(int64_t b, int64_t begin, int64_t end) const override {
    fields_.content.forget(b, begin, end);
  }

  void dense(int64_t b, int64_t begin, int64_t end, Matrix out) override {
    content(b, begin, end, out.slice(0, content_channels_));
    write_positions(b, begin, end, out);
    if (constant_channels_ > 0) {
      fill_rows(constant_, out.slice(content_channels_ + position_channels_, constant_channels_));
    }
    if (replacement_ != nullptr) {
      for (int64_t i = begin; i < end; ++i) {
        if (is_replaced(b, i)) {
          std::copy_n(replacement_, channels(), out.row(i - begin));
        }
      }
    }
  }

  const uint8_t* mask(int64_t b) const override {
    return mask_.defined() ? flag_bytes(mask_) + b * count_ : nullptr;
  }

 private:
  void replace_by(const float* token) {
    replacement_ = token;
    factors_ = false;
    positions_ = {};
  }

  bool is_replaced(int64_t b, int64_t i) const {
    return replaced_.defined() ? flag_bytes(replaced_)[b * count_ + i] != 0
                               : draw_(b, fields_.first_token + i);
  }

  void write_positions(int64_t b, int64_t begin, int64_t end, Matrix out) {
    if (!fields_.positions.defined()) {
      return;
    }
    const RowRange rows{fields_.first_token + begin, fields_.first_token + end};
    if (!fields_.add_positions) {
      fields_.positions.write(b, rows, out.slice(content_channels_, position_channels_), *scratch_);
      return;
    }
    for (int64_t from = 0; from < rows.count(); from += kStemRows) {
      const int64_t to = std::min(from + kStemRows, rows.count());
      const Matrix added = StemScratch::matrix(scratch_->third, to - from, content_channels_);
      fields_.positions.write(b, rows.part(from, to), added, *scratch_);
      for_pieces(to - from, content_channels_, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const float* row = added.row(i);
          float* sum = out.row(from + i);
          std::transform(row, row + content_channels_, sum, sum, std::plus<>());
        }
      });
    }
  }

  Fields fields_;
  Array mask_, replaced_;
  const float* replacement_ = nullptr;
  TokenDraw draw_;
  std::shared_ptr<StemScratch> scratch_;
};

using SourceFields = InputSource::Fields;

ContentReader linear_content(const SourceContext& context, const InputSpec& input, Array raw,
                             RawLayout layout) {
  const std::string stem = cat("inputs.", input.name, ".stem");
  if (layout.width() == 0) {
    const Array& bias = context.weights.at(stem + ".bias");
    return {bias.data<float>(), bias.numel()};
  }
  return {std::move(raw), std::move(layout), context.cache.linear(context.weights, stem)};
}

/// Raw extents -> token extents of a stem that strides or cuts patches; a stride's last step may be
/// short.
std::vector<int64_t> token_extents(const InputSpec& input, const std::vector<int64_t>& raw) {
  std::vector<int64_t> grid = raw;
  for (size_t axis = 0; axis < input.downsample.size(); ++axis) {
    grid[axis] = (grid[axis] + input.downsample[axis] - 1) / input.downsample[axis];
  }
  return grid;
}

void check_patches(const InputSpec& input, const Array& raw, const Part& part) {
  for (size_t axis = 0; axis < input.downsample.size(); ++axis) {
    if (raw.shape()[axis + 1] % input.downsample[axis] != 0) {
      throw Error(ErrorCode::kShape,
                  cat("[input ", input.name, "] extents of ", shape_string(raw.shape()),
                      " must be divisible by the patch ", shape_string(input.downsample)));
    }
  }
  if (!input.downsample.empty() &&
      (part.begin % input.downsample[0] != 0 || part.extents[0] % input.downsample[0] != 0)) {
    throw Error(ErrorCode::kShape,
                cat("[input ", input.name, "] a block from ", part.begin, " of ", part.extents[0],
                    " does not hold whole patches of ", input.downsample[0]));
  }
}

/// Extents of the whole input, where nobody said them: as if `raw` were its end.
std::vector<int64_t> whole_extents(const Array& raw, size_t axes, const Part& part) {
  if (!part.extents.empty()) {
    return part.extents;
  }
  std::vector<int64_t> extents(raw.shape().begin() + 1,
                               raw.shape().begin() + 1 + static_cast<int64_t>(axes));
  extents[0] += part.begin;
  return extents;
}

/// The block must be some slices of the whole, the other axes complete.
void check_part(const InputSpec& input, const Array& raw, const Part& part) {
  const std::vector<int64_t> own(
      raw.shape().begin() + 1, raw.shape().begin() + 1 + static_cast<int64_t>(part.extents.size()));
  const bool fits = part.begin <= part.extents[0] - own[0] &&
                    std::equal(own.begin() + 1, own.end(), part.extents.begin() + 1);
  if (!fits) {
    throw Error(ErrorCode::kShape,
                cat("[input ", input.name, "] a block of extents ", shape_string(own), " from ",
                    part.begin, " does not lie in ", shape_string(part.extents)));
  }
}

/// Elements from one value to the next along each axis of [axes..., channels].
std::vector<int64_t> element_steps(const std::vector<int64_t>& extents, int64_t channels) {
  std::vector<int64_t> steps(extents.size());
  int64_t step = channels;
  for (size_t axis = extents.size(); axis-- > 0;) {
    steps[axis] = step;
    step *= extents[axis];
  }
  return steps;
}

/// The pieces of one patch: its last axis and the channels lie together.
void cut_patch(const std::vector<int64_t>& patch, const std::vector<int64_t>& steps,
               RawLayout& layout) {
  layout.run *= patch.back();
  for (size_t axis = 0; axis + 1 < patch.size(); ++axis) {
    std::vector<int64_t> runs;
    for (const int64_t first : layout.runs) {
      for (int64_t k = 0; k < patch[axis]; ++k) {
        runs.push_back(first + k * steps[axis]);
      }
    }
    layout.runs = std::move(runs);
  }
}

RawLayout grid_layout(const InputSpec& input, const Array& raw, const Part& part) {
  const std::vector<int64_t> extents(raw.shape().begin() + 1, raw.shape().end() - 1);
  const std::vector<int64_t> steps = element_steps(extents, input.channels);
  RawLayout layout;
  layout.grid = token_extents(input, extents);
  layout.steps = steps;
  layout.run = input.channels;
  layout.example = raw.size(0) == 0 ? 0 : raw.numel() / raw.size(0);
  if (input.downsample.empty()) {
    return layout;
  }
  const int64_t stride = input.downsample[0];
  const int64_t first = (part.begin + stride - 1) / stride;  // token rows of the whole
  const int64_t last = (part.begin + extents[0] + stride - 1) / stride;
  layout.grid[0] = last - first;
  layout.first = (first * stride - part.begin) * steps[0];
  for (size_t axis = 0; axis < steps.size(); ++axis) {
    layout.steps[axis] *= input.downsample[axis];
  }
  if (input.stem == Stem::kPatches) {
    cut_patch(input.downsample, steps, layout);
  }
  return layout;
}

ContentReader conv_content(const SourceContext& context, const InputSpec& input, const Array& raw,
                           std::vector<int64_t>& grid) {
  std::shared_ptr<ConvStem>& stem = context.cache.conv_stems[input.name];
  if (stem == nullptr) {
    stem =
        std::make_shared<ConvStem>(context.weights, input, context.spec.compatibility.conv_padding);
  }
  Array content = stem->apply(raw, context.workspace);
  grid.assign(content.shape().begin() + 1, content.shape().end() - 1);
  RawLayout layout;
  layout.grid = grid;
  layout.steps = element_steps(grid, content.size(-1));
  layout.run = content.size(-1);
  layout.example = element_count(grid) * layout.run;
  return {std::move(content), std::move(layout)};
}

void set_table_positions(const SourceContext& context, const InputSpec& input,
                         const TokenShape& tokens, SourceFields& fields) {
  const std::string prefix = cat("inputs.", input.name, ".position");
  const float* table = context.weights.data(prefix + ".table");
  const int64_t width = tokens.position_table_channels;
  // a text is the beginning of its table, whatever its length
  const bool fits = input.kind == InputKind::kText || tokens.index_dims == fields.grid;
  if (!fits && (tokens.index_dims.size() != 2 || fields.grid.size() != 2)) {
    throw Error(ErrorCode::kShape, cat("[input ", input.name, "] learned positions for a grid of ",
                                       shape_string(tokens.index_dims), " can't be resized to ",
                                       shape_string(fields.grid), ": only planes can"));
  }
  fields.positions = PositionRows(
      fits ? table_rows(table, width) : resized_rows(table, tokens.index_dims, fields.grid, width),
      input.position, prefix, context.weights, context.cache);
  if (!fits || fields.positions.has_linears()) {
    const std::vector<int64_t>& grid = fits ? tokens.index_dims : fields.grid;
    fields.positions.keep_table(prefix, grid, element_count(grid), context.cache);
  }
}

void set_positions(const SourceContext& context, const InputSpec& input, const TokenShape& tokens,
                   SourceFields& fields) {
  fields.add_positions = input.position.use == PositionUse::kAdd;
  if (input.position.kind == PositionKind::kTrainable) {
    set_table_positions(context, input, tokens, fields);
  } else if (input.position.kind == PositionKind::kFourier) {
    const std::string prefix = cat("inputs.", input.name, ".position");
    fields.separable = context.cache.fourier.get(prefix, fields.grid, [&] {
      return tokens::fourier_grid(input.position, fields.grid, AxisGrid::kInclusive, DType::kF32);
    });
    fields.positions = PositionRows(fourier_rows(fields.separable), input.position, prefix,
                                    context.weights, context.cache);
    if (fields.positions.has_linears()) {
      fields.positions.keep_table(prefix, fields.grid, element_count(fields.grid), context.cache);
    }
  }
}

SourceFields text_fields(const SourceContext& context, const InputSpec& input,
                         const TokenShape& tokens, const Array& ids, const Part& part) {
  if (ids.dim() != 2 || ids.size(1) < 1 || ids.size(1) > input.index_dims[0] - part.begin) {
    wrong_shape(input,
                cat("token ids [B, T] with 1 <= T <= ",
                    std::max<int64_t>(input.index_dims[0] - part.begin, 0)),
                ids);
  }
  const DType type = ids.dtype();
  if (type == DType::kF64 || type == DType::kF32 || type == DType::kF16 || type == DType::kBF16) {
    throw Error(ErrorCode::kShape, cat("[input ", input.name, "] token ids must be integers"));
  }
  if (ids.numel() > 0) {
    const auto [smallest, largest] = id_range(ids);
    if (smallest < 0 || largest >= input.vocab_size) {
      throw Error(ErrorCode::kArgument,
                  cat("[input ", input.name, "] token id ", smallest < 0 ? smallest : largest,
                      " is outside the vocabulary of ", input.vocab_size));
    }
  }
  SourceFields fields;
  fields.grid = whole_extents(ids, 1, part);
  check_part(input, ids, {fields.grid, part.begin});
  fields.count = ids.size(1);
  fields.first_token = part.begin;
  fields.content = {ids, context.weights.data(cat("inputs.", input.name, ".embedding.weight")),
                    input.embedding_channels};
  set_positions(context, input, tokens, fields);
  return fields;
}

SourceFields grid_fields(const SourceContext& context, const InputSpec& input,
                         const TokenShape& tokens, const Array& raw, Part part) {
  const auto axes = static_cast<int64_t>(input.index_dims.size());
  if (raw.dim() != axes + 2 || raw.size(-1) != input.channels) {
    std::vector<int64_t> expected = input.index_dims;
    expected.push_back(input.channels);
    wrong_shape(input, cat("[B] + ", shape_string(expected)), raw);
  }
  part.extents = whole_extents(raw, input.index_dims.size(), part);
  check_part(input, raw, part);
  SourceFields fields;
  if (input.stem == Stem::kConv) {
    fields.content = conv_content(context, input, raw, fields.grid);
    fields.count = element_count(fields.grid);
  } else {
    if (input.stem == Stem::kPatches) {
      check_patches(input, raw, part);
    }
    RawLayout layout = grid_layout(input, raw, part);
    const int64_t stride = input.downsample.empty() ? 1 : input.downsample[0];
    fields.grid = token_extents(input, part.extents);
    fields.count = element_count(layout.grid);
    fields.first_token = fields.grid[0] == 0 ? 0
                                             : (part.begin + stride - 1) / stride *
                                                   (element_count(fields.grid) / fields.grid[0]);
    if (input.stem == Stem::kPatches && fields.grid.size() == 3 && fields.grid[0] == 1 &&
        stride > 1) {
      fields.grid.erase(fields.grid.begin());  // frames stacked into one token leave a plane
    }
    const bool plain =
        input.stem == Stem::kPixels || (input.stem == Stem::kPatches && input.out_channels == 0);
    fields.content = plain ? ContentReader(raw, std::move(layout))
                           : linear_content(context, input, raw, std::move(layout));
  }
  set_positions(context, input, tokens, fields);
  return fields;
}

SourceFields label_fields(const InputSpec& input, const Array& raw) {
  if (raw.dim() != 2 || raw.size(1) != input.channels) {
    wrong_shape(input, cat("[B, ", input.channels, "]"), raw);
  }
  SourceFields fields;
  fields.grid = {1};
  fields.count = 1;
  RawLayout layout;
  layout.grid = {1};
  layout.steps = {input.channels};
  layout.run = layout.example = input.channels;
  fields.content = ContentReader(raw, std::move(layout));
  return fields;
}

SourceFields set_fields(const SourceContext& context, const InputSpec& input, const Array& raw,
                        const Part& part) {
  const int64_t width = input.coordinates + input.channels;
  if (raw.dim() != 3 || raw.size(1) < 1 || raw.size(1) > input.index_dims[0] - part.begin ||
      raw.size(2) != width) {
    wrong_shape(input,
                cat("[B, M, ", width,
                    "] with 1 <= M <= ", std::max<int64_t>(input.index_dims[0] - part.begin, 0)),
                raw);
  }
  SourceFields fields;
  fields.count = raw.size(1);
  fields.first_token = part.begin;
  fields.grid = whole_extents(raw, 1, part);
  check_part(input, raw, {fields.grid, part.begin});
  RawLayout layout;
  layout.grid = {fields.count};
  layout.steps = {width};
  layout.example = fields.count * width;
  if (input.channels > 0 || input.out_channels > 0) {
    RawLayout values = layout;
    values.first = input.coordinates;
    values.run = input.channels;
    fields.content = input.stem == Stem::kLinear || input.stem == Stem::kConv1x1
                         ? linear_content(context, input, raw, std::move(values))
                         : ContentReader(raw, std::move(values));
  }
  if (input.coordinates > 0 && input.position.kind == PositionKind::kFourier) {
    layout.run = input.coordinates;
    layout.grid = fields.grid;  // positions are asked for by their place in the whole
    layout.first = -part.begin * width;
    fields.positions =
        PositionRows(coordinate_rows(input.position, raw, std::move(layout)), input.position,
                     cat("inputs.", input.name, ".position"), context.weights, context.cache);
    fields.add_positions = input.position.use == PositionUse::kAdd;
  }
  return fields;
}

SourceFields make_fields(const SourceContext& context, const InputSpec& input,
                         const TokenShape& tokens, const Array& raw, Part part) {
  switch (input.kind) {
    case InputKind::kText:
      return text_fields(context, input, tokens, raw, part);
    case InputKind::kGrid:
      return grid_fields(context, input, tokens, raw, std::move(part));
    case InputKind::kLabel:
      return label_fields(input, raw);
    case InputKind::kSet:
      return set_fields(context, input, raw, part);
  }
  throw Error(ErrorCode::kInternal, "unknown kind of input");
}

void set_mask(const InputSpec& input, const Array& mask, InputSource& source) {
  const std::vector<int64_t> wanted{source.batch(), source.count()};
  if (mask.shape() != wanted) {
    wrong_shape(input, cat("a mask of ", shape_string(wanted)), mask);
  }
  source.set_mask(as_flags(mask));
}

void set_replaced(const SourceContext& context, const InputSpec& input, const Array& given,
                  InputSource& source) {
  if (input.mask_probability < 0) {
    return;
  }
  const float* token = context.weights.data(cat("inputs.", input.name, ".mask_token"));
  if (given.defined()) {
    const std::vector<int64_t> wanted{source.batch(), source.count()};
    if (given.shape() != wanted) {
      wrong_shape(input, cat("replaced tokens ", shape_string(wanted)), given);
    }
    source.replace(as_flags(given), token);
  } else if (input.mask_probability > 0) {
    source.replace_by_chance(input.mask_probability, token);
  }
}

struct Given {
  const Array& raw;
  Array mask, replaced;
};

std::unique_ptr<InputSource> make_source(const SourceContext& context, const TokenShape& tokens,
                                         const Given& given, Part part) {
  const InputSpec& input = context.spec.input(tokens.name);
  SourceFields fields = make_fields(context, input, tokens, given.raw, std::move(part));
  auto source = std::make_unique<InputSource>(input, given.raw.size(0), std::move(fields),
                                              context.cache.scratch);
  if (given.mask.defined()) {
    set_mask(input, given.mask, *source);
  }
  if (context.spec.pad_inputs) {
    const Array& padding = context.weights.at(cat("inputs.", input.name, ".padding"));
    source->set_constant(padding.data<float>(), padding.numel());
  }
  set_replaced(context, input, given.replaced, *source);
  if (source->channels() != context.shape.input_channels) {
    throw Error(ErrorCode::kUnsupported,
                cat("[input ", input.name, "] makes tokens of ", source->channels(),
                    " channels, but the model reads ", context.shape.input_channels));
  }
  return source;
}

/// What the caller says of a block's place, as far as it can be judged without the block.
void check_place(const InputSpec& input, const std::vector<int64_t>& extents, int64_t begin) {
  constexpr int64_t kFarthest = int64_t{1} << 40;  // more than any input has
  const bool label = input.kind == InputKind::kLabel;
  if (begin < 0 || begin > (label ? 0 : kFarthest)) {
    throw Error(ErrorCode::kShape, cat("[input ", input.name, "] a block can't begin at ", begin));
  }
  if (!label && !extents.empty() && extents.size() != input.index_dims.size()) {
    throw Error(ErrorCode::kShape,
                cat("[input ", input.name, "] extents ", shape_string(extents),
                    " must have as many axes as ", shape_string(input.index_dims)));
  }
}

Array find_or_none(const ArrayMap& arrays, const std::string& name) {
  const auto found = arrays.find(name);
  return found == arrays.end() ? Array() : found->second;
}

}  // namespace

SourceCache::SourceCache() : parts_(std::make_unique<Parts>()) {}
SourceCache::~SourceCache() = default;

Matrix normed_rows(TokenSource& source, int64_t b, int64_t begin, int64_t end, float eps,
                   Matrix out) {
  source.dense(b, begin, end, out);
  kernels::normalise_rows(out.rows, out.columns, out.data, out.stride, eps, out.data, out.stride);
  return out;
}

std::vector<std::unique_ptr<TokenSource>> read_inputs(const ModelSpec& spec,
                                                      const ModelShape& shape,
                                                      const Weights& weights,
                                                      const ModelInputs& inputs,
                                                      Workspace& workspace, SourceCache* cache) {
  for (const auto& [name, unused] : inputs.arrays) {
    spec.input(name);  // throws on a name the model does not read
  }
  std::optional<SourceCache> own;
  const SourceContext context{spec, shape, weights,
                              (cache != nullptr ? *cache : own.emplace()).parts(), workspace};
  std::vector<std::unique_ptr<TokenSource>> sources;
  for (const TokenShape& tokens : shape.inputs) {
    const auto found = inputs.arrays.find(tokens.name);
    if (found == inputs.arrays.end()) {
      throw Error(ErrorCode::kArgument, cat("[input ", tokens.name, "] is missing"));
    }
    const Given given{found->second, find_or_none(inputs.masks, tokens.name),
                      find_or_none(inputs.replaced, tokens.name)};
    sources.push_back(make_source(context, tokens, given, {}));
    const TokenSource& first = *sources.front();
    if (sources.back()->batch() != first.batch()) {
      throw Error(ErrorCode::kShape,
                  cat("[input ", tokens.name, "] has a batch of ", sources.back()->batch(),
                      " but input ", first.name(), " has ", first.batch()));
    }
  }
  return sources;
}

InputBlock read_block(const ModelSpec& spec, const ModelShape& shape, const Weights& weights,
                      const std::string& modality, const Array& raw, const Array& mask,
                      const std::vector<int64_t>& extents, int64_t begin, Workspace& workspace,
                      SourceCache* cache) {
  const InputSpec& input = spec.input(modality);
  if (input.kind == InputKind::kGrid && input.stem == Stem::kConv) {
    throw Error(ErrorCode::kUnsupported,
                cat("[input ", modality,
                    "] a conv stem can't read blocks: each would need its neighbours' edges"));
  }
  check_place(input, extents, begin);
  std::optional<SourceCache> own;
  const SourceContext context{spec, shape, weights,
                              (cache != nullptr ? *cache : own.emplace()).parts(), workspace};
  const auto tokens =
      std::find_if(shape.inputs.begin(), shape.inputs.end(),
                   [&](const TokenShape& candidate) { return candidate.name == modality; });
  auto source = make_source(context, *tokens, {raw, mask, {}}, {extents, begin});
  InputBlock block;
  block.first_token = source->first_token();
  block.source = std::move(source);
  return block;
}

}  // namespace perceiver::runtime
