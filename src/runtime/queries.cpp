#include <algorithm>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/kernels/attend.h"
#include "runtime/stems.h"
#include "runtime/token_source.h"
#include "runtime/token_source_cache.h"
#include "runtime/token_source_positions.h"

namespace perceiver::runtime {
namespace {

using Sources = std::vector<std::unique_ptr<TokenSource>>;

template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const OutputSpec& output, const Parts&... parts) {
  throw Error(code, cat("[output ", output.name, "] ", parts...));
}

TokenSource& find_input(const Sources& inputs, const OutputSpec& output) {
  for (const auto& input : inputs) {
    if (input->name() == output.of_input) {
      return *input;
    }
  }
  fail(ErrorCode::kArgument, output, "needs the tokens of input ", output.of_input,
       ", which were not given");
}

bool caller_gives_rows(const OutputSpec& output) {
  return output.query == QueryKind::kCaller || output.query == QueryKind::kCoordinates;
}

bool rows_are_inputs(const OutputSpec& output) {
  return output.query == QueryKind::kInputTokens || output.query == QueryKind::kInputContent;
}

/// Outputs tied to a text are as long as the text, not as its table.
bool follows_text(const ModelSpec& spec, const OutputSpec& output) {
  return output.query == QueryKind::kLearned && output.head == HeadKind::kTiedEmbedding &&
         spec.input(output.of_input).kind == InputKind::kText;
}

/// [content of an input | rows of a position encoding | padding], each part possibly absent; or the
/// dense tokens of an input and padding.
class QuerySource : public TokenSource {
 public:
  struct Fields {
    TokenSource* content_of = nullptr;  ///< input whose content comes first
    TokenSource* tokens_of = nullptr;   ///< input whose dense tokens the rows are
    PositionRows positions;
    std::shared_ptr<const tokens::SeparablePositions> separable;
    std::vector<int64_t> grid;  ///< of the whole output
    std::vector<int64_t> points;
    bool whole = true;
    int64_t count = 0;
    bool is_constant = false;
    std::vector<float> padding;
  };

  QuerySource(const OutputSpec& output, int64_t batch, Fields fields,
              std::shared_ptr<StemScratch> scratch)
      : fields_(std::move(fields)), scratch_(std::move(scratch)) {
    name_ = output.name;
    batch_ = batch;
    count_ = fields_.count;
    grid_ = fields_.whole ? fields_.grid : std::vector<int64_t>{count_};
    is_constant_ = fields_.is_constant;
    first_row_ = fields_.points.empty() ? 0 : fields_.points.front();
    constant_values_ = fields_.padding;
    if (fields_.tokens_of != nullptr) {
      take_over(*fields_.tokens_of);
    } else {
      content_channels_ =
          fields_.content_of != nullptr ? fields_.content_of->content_channels() : 0;
      position_channels_ = fields_.positions.defined() ? fields_.positions.width() : 0;
      if (are_neighbours() && fields_.separable != nullptr && !fields_.positions.has_linears() &&
          fields_.separable->axes.size() <= static_cast<size_t>(kernels::kMaxGridAxes)) {
        factors_ = true;
        positions_ = *fields_.separable;
      }
    }
    constant_channels_ = static_cast<int64_t>(constant_values_.size());
    constant_ = constant_values_.empty() ? nullptr : constant_values_.data();
  }

  void set_mask(Array mask) { mask_ = std::move(mask); }

  void content(int64_t b, int64_t begin, int64_t end, Matrix out) override {
    TokenSource* from = fields_.tokens_of != nullptr ? fields_.tokens_of : fields_.content_of;
    if (from != nullptr && content_channels_ > 0) {
      read_runs(begin, end, out, [&](int64_t first, int64_t last, Matrix rows) {
        from->content(b, first, last, rows);
      });
    }
  }

  void dense(int64_t b, int64_t begin, int64_t end, Matrix out) override {
    const auto padding = static_cast<int64_t>(fields_.padding.size());
    if (fields_.tokens_of != nullptr) {
      read_runs(begin, end, out.slice(0, channels() - padding),
                [&](int64_t first, int64_t last, Matrix rows) {
                  fields_.tokens_of->dense(b, first, last, rows);
                });
    } else {
      content(b, begin, end, out.slice(0, content_channels_));
      if (fields_.positions.defined()) {
        fields_.positions.write(b, range(begin, end),
                                out.slice(content_channels_, position_channels_), *scratch_);
      }
    }
    if (padding > 0) {
      fill_rows(fields_.padding.data(), out.slice(channels() - padding, padding));
    }
  }

  const uint8_t* mask(int64_t b) const override {
    return mask_.defined() ? reinterpret_cast<const uint8_t*>(mask_.bytes()) + b * count_ : nullptr;
  }

 private:
  /// The rows are an input's tokens: they have its parts, its constant channels before our padding.
  void take_over(const TokenSource& input) {
    content_channels_ = input.content_channels();
    position_channels_ = input.position_channels();
    constant_values_.insert(constant_values_.begin(), input.constant(),
                            input.constant() + input.constant_channels());
    if (are_neighbours() && input.factors()) {
      factors_ = true;
      positions_ = input.positions();
    }
  }

  /// A stretch of the grid, in order.
  bool are_neighbours() const {
    const std::vector<int64_t>& points = fields_.points;
    return fields_.whole ||
           std::adjacent_find(points.begin(), points.end(),
                              [](int64_t a, int64_t b) { return b != a + 1; }) == points.end();
  }

  RowRange range(int64_t begin, int64_t end) const {
    return {begin, end, fields_.whole ? nullptr : fields_.points.data()};
  }

  /// Calls read(first, last, rows of out) for each run of neighbouring rows among those wanted.
  template <typename Read>
  void read_runs(int64_t begin, int64_t end, Matrix out, const Read& read) const {
    const RowRange wanted = range(begin, end);
    if (wanted.points == nullptr) {
      read(begin, end, out);
      return;
    }
    for (int64_t i = 0; i < wanted.count();) {
      int64_t stop = i + 1;
      while (stop < wanted.count() && wanted.at(stop) == wanted.at(stop - 1) + 1) {
        ++stop;
      }
      read(wanted.at(i), wanted.at(i) + stop - i, out.block(i, stop));
      i = stop;
    }
  }

  Fields fields_;
  std::vector<float> constant_values_;
  Array mask_;
  std::shared_ptr<StemScratch> scratch_;
};

using QueryFields = QuerySource::Fields;

struct QueryContext {
  const ModelSpec& spec;
  const Weights& weights;
  const OutputSpec& output;
  const Sources& inputs;
  const OutputRequest& request;
  int64_t batch;
  SourceCache::Parts& cache;
  std::string prefix;
};

/// What the caller gives: [B, O, width], checked.
Array given_rows(const QueryContext& context) {
  const OutputSpec& output = context.output;
  const bool coordinates = output.query == QueryKind::kCoordinates;
  const int64_t width =
      coordinates ? static_cast<int64_t>(output.index_dims.size()) : output.channels;
  const auto given = context.request.queries.find(output.name);
  if (given == context.request.queries.end()) {
    fail(ErrorCode::kArgument, output, "needs ", coordinates ? "coordinates" : "queries",
         " [B, O, ", width, "] from the caller");
  }
  const Array& rows = given->second;
  if (rows.dim() != 3 || rows.size(0) != context.batch || rows.size(2) != width) {
    fail(ErrorCode::kShape, output, coordinates ? "coordinates" : "queries", " must be [",
         context.batch, ", O, ", width, "], got ", shape_string(rows.shape()));
  }
  return rows;
}

/// Rows of a raw array as they are.
class RawRows : public EncodingRows {
 public:
  RawRows(Array raw, RawLayout layout) : raw_(std::move(raw)), layout_(std::move(layout)) {}
  int64_t width() const override { return layout_.run; }
  void write(int64_t b, const RowRange& range, Matrix out) const override {
    if (range.points == nullptr) {
      copy_rows(raw_, layout_, b, range.begin, range.end, out);
      return;
    }
    for (int64_t i = 0; i < range.count(); ++i) {
      copy_rows(raw_, layout_, b, range.at(i), range.at(i) + 1, out.block(i, i + 1));
    }
  }

 private:
  Array raw_;
  RawLayout layout_;
};

PositionRows with_linears(const QueryContext& context, std::unique_ptr<EncodingRows> rows) {
  return {std::move(rows), context.output.position, context.prefix, context.weights, context.cache};
}

void set_given_rows(const QueryContext& context, QueryFields& fields) {
  const OutputSpec& output = context.output;
  const Array rows = given_rows(context);
  fields.grid = {rows.size(1)};
  RawLayout layout;
  layout.grid = fields.grid;
  layout.run = rows.size(2);
  layout.steps = {layout.run};
  layout.example = rows.size(1) * layout.run;
  if (output.query == QueryKind::kCaller) {
    fields.positions = with_linears(context, std::make_unique<RawRows>(rows, std::move(layout)));
    return;
  }
  PositionSpec position = output.position;
  if (position.max_resolution.empty()) {
    position.max_resolution = output.index_dims;
  }
  fields.positions = with_linears(context, coordinate_rows(position, rows, std::move(layout)));
}

/// Which rows exist, and which of them are asked for.
void set_rows(const QueryContext& context, QueryFields& fields) {
  const OutputSpec& output = context.output;
  const int64_t rows = element_count(fields.grid);
  fields.count = rows;
  const auto asked = context.request.points.find(output.name);
  if (asked != context.request.points.end()) {
    fields.whole = false;
    fields.points = asked->second;
    for (const int64_t point : fields.points) {
      if (point < 0 || point >= rows) {
        fail(ErrorCode::kArgument, output, "row ", point, " was asked for, but there are ", rows);
      }
    }
    fields.count = static_cast<int64_t>(fields.points.size());
  } else if (follows_text(context.spec, output) && !context.inputs.empty()) {
    fields.count = find_input(context.inputs, output).count();
    fields.grid = {fields.count};
  }
}

void set_learned(const QueryContext& context, QueryFields& fields) {
  const Array& table = context.weights.at(context.prefix + ".table");
  fields.positions = with_linears(context, table_rows(table.data<float>(), table.size(1)));
  if (fields.positions.has_linears()) {
    fields.positions.keep_table(context.prefix, {table.size(0)}, table.size(0), context.cache);
  }
  fields.is_constant =
      fields.whole && fields.content_of == nullptr && fields.count == table.size(0);
}

void set_fourier(const QueryContext& context, QueryFields& fields) {
  const OutputSpec& output = context.output;
  const AxisGrid axis = fields.whole ? output.whole_grid : AxisGrid::kHalfOpen;
  const std::string part =
      cat(context.prefix, axis == AxisGrid::kInclusive ? ".inclusive" : ".half_open");
  fields.separable = context.cache.fourier.get(part, output.index_dims, [&] {
    return tokens::fourier_grid(output.position, output.index_dims, axis, DType::kF32);
  });
  fields.positions = with_linears(context, fourier_rows(fields.separable));
  if (fields.positions.has_linears() && fields.whole) {
    fields.positions.keep_table(part, output.index_dims, fields.count, context.cache);
  }
  fields.is_constant = fields.whole && fields.content_of == nullptr;
}

/// The rows of an input that stand beside ours must exist.
void check_content_rows(const OutputSpec& output, const QueryFields& fields) {
  if (fields.content_of == nullptr) {
    return;
  }
  int64_t last = fields.count - 1;
  if (!fields.whole) {
    last =
        fields.points.empty() ? -1 : *std::max_element(fields.points.begin(), fields.points.end());
  }
  if (last >= fields.content_of->count()) {
    fail(ErrorCode::kShape, output, "row ", last, " needs the content of input ", output.of_input,
         ", which has ", fields.content_of->count(), " tokens");
  }
}

QueryFields make_fields(const QueryContext& context) {
  const OutputSpec& output = context.output;
  QueryFields fields;
  fields.grid = output.index_dims;
  if (output.concat_input) {
    fields.content_of = &find_input(context.inputs, output);
  }
  if (rows_are_inputs(output)) {
    TokenSource& input = find_input(context.inputs, output);
    (output.query == QueryKind::kInputTokens ? fields.tokens_of : fields.content_of) = &input;
    fields.grid = input.grid();
  } else if (caller_gives_rows(output)) {
    set_given_rows(context, fields);
  }
  set_rows(context, fields);
  if (output.query == QueryKind::kLearned) {
    set_learned(context, fields);
  } else if (output.query == QueryKind::kFourier) {
    set_fourier(context, fields);
  }
  check_content_rows(output, fields);
  if (context.spec.decoder.pad_queries) {
    const Array& padding = context.weights.at(cat("outputs.", output.name, ".padding"));
    fields.padding.assign(padding.data<float>(), padding.data<float>() + padding.numel());
  }
  return fields;
}

}  // namespace

std::unique_ptr<TokenSource> make_queries(const ModelSpec& spec, const ModelShape& shape,
                                          const Weights& weights, const OutputSpec& output,
                                          const Sources& inputs, const OutputRequest& request,
                                          int64_t batch, SourceCache* cache) {
  std::optional<SourceCache> own;
  const QueryContext context{spec,
                             weights,
                             output,
                             inputs,
                             request,
                             batch,
                             (cache != nullptr ? *cache : own.emplace()).parts(),
                             cat("outputs.", output.name, ".query")};
  auto source =
      std::make_unique<QuerySource>(output, batch, make_fields(context), context.cache.scratch);
  const auto mask = request.query_masks.find(output.name);
  if (mask != request.query_masks.end() && spec.compatibility.decoder_uses_query_mask) {
    const std::vector<int64_t> wanted{batch, source->count()};
    if (mask->second.shape() != wanted) {
      fail(ErrorCode::kShape, output, "query mask must be ", shape_string(wanted), ", got ",
           shape_string(mask->second.shape()));
    }
    source->set_mask(as_flags(mask->second));
  }
  if (source->channels() != shape.query_channels) {
    fail(ErrorCode::kUnsupported, output, "makes queries of ", source->channels(),
         " channels, but the decoder reads ", shape.query_channels);
  }
  return source;
}

}  // namespace perceiver::runtime
