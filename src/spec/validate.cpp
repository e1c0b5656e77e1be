#include "spec/validate.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "spec/checks.h"

namespace perceiver::spec_detail {
namespace {

constexpr size_t kMaxAxes = 8;
constexpr size_t kMaxParts = 256;
constexpr int64_t kMaxDepth = 4096;

void check_name(const std::string& name, const std::string& place) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  };
  require(!name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), plain), place,
          "name '", printable(name),
          "' must be 1 to 64 letters, digits, '_' or '-' (it becomes part of tensor names)");
}

void check_extents(const std::vector<int64_t>& extents, const std::string& place,
                   const char* field) {
  require(extents.size() <= kMaxAxes, place, field, " has ", extents.size(), " axes, at most ",
          kMaxAxes, " are supported");
  for (const int64_t extent : extents) {
    require(extent >= 1 && extent <= kMaxExtent, place, field, " ", shape_string(extents),
            ": every extent must be between 1 and 2^31");
  }
  checked_product(extents, place, field);
}

void check_position(const PositionSpec& position, const std::string& place) {
  require_range(position.num_channels, 0, kMaxExtent, place, "position.num_channels");
  require_range(position.num_bands, 0, 1 << 20, place, "position.num_bands");
  require_range(position.project_channels, 0, kMaxExtent, place, "position.project_channels");
  require_range(position.num_extra_linears, 0, 64, place, "position.num_extra_linears");
  check_extents(position.max_resolution, place, "position.max_resolution");
  const bool fourier = position.kind == PositionKind::kFourier;
  require(fourier || (position.num_bands == 0 && position.max_resolution.empty()), place,
          "position.num_bands and position.max_resolution belong to fourier positions");
  require(!fourier || position.num_channels == 0, place, "position.num_channels (",
          position.num_channels,
          ") belongs to trainable positions; fourier ones follow from "
          "num_bands");
  require(!fourier || position.num_bands > 0 || position.concat_pos, place,
          "fourier position without num_bands and without concat_pos has no channels");
}

void check_label(const InputSpec& input, const std::string& place) {
  require(input.stem == Stem::kPixels && input.position.kind == PositionKind::kNone, place,
          "a label becomes one token as it is: stem must be 'pixels' and position 'none'");
  require(input.index_dims.empty() || input.index_dims == std::vector<int64_t>{1}, place,
          "index_dims ", shape_string(input.index_dims), " of a label must be absent or [1]");
  require_range(input.channels, 1, kMaxExtent, place, "channels");
}

void check_text(const InputSpec& input, const std::string& place) {
  require(input.index_dims.size() == 1, place, "index_dims ", shape_string(input.index_dims),
          " of a text must be one extent, the longest text");
  require_range(input.vocab_size, 1, kMaxExtent, place, "vocab_size");
  require_range(input.embedding_channels, 1, kMaxExtent, place, "embedding_channels");
  require(input.channels == 0, place, "channels (", input.channels,
          ") must be 0: a text has embedding_channels");
  require(input.stem == Stem::kPixels, place, "a text has no stem");
}

void check_set(const InputSpec& input, const std::string& place) {
  require(input.index_dims.size() == 1, place, "index_dims ", shape_string(input.index_dims),
          " of a set must be one extent, the largest number of elements");
  require(input.stem == Stem::kPixels || input.stem == Stem::kLinear, place,
          "stem of a set must be 'pixels' or 'linear'");
  require(input.channels + input.coordinates > 0, place,
          "channels and coordinates are both 0: the elements are empty");
  const bool fourier = input.position.kind == PositionKind::kFourier;
  require(fourier == (input.coordinates > 0), place, "coordinates (", input.coordinates,
          ") and fourier positions need each other in a set");
  require(!fourier || !input.position.max_resolution.empty(), place,
          "position.max_resolution is required: a set has no grid to take it from");
}

void check_grid(const InputSpec& input, const std::string& place) {
  require(!input.index_dims.empty(), place, "index_dims is empty");
  require_range(input.channels, 1, kMaxExtent, place, "channels");
  if (input.stem == Stem::kConv) {
    require(input.index_dims.size() == 2 || input.index_dims.size() == 3, place, "index_dims ",
            shape_string(input.index_dims), " of a conv stem must be [H, W] or [frames, H, W]");
    require_range(input.num_conv_layers, 1, 8, place, "num_conv_layers");
  }
}

void check_stem(const InputSpec& input, const std::string& place) {
  const bool has_width =
      input.stem == Stem::kLinear || input.stem == Stem::kConv1x1 || input.stem == Stem::kConv;
  require(!has_width || input.out_channels > 0, place, "out_channels (", input.out_channels,
          ") of this stem must be positive");
  require(input.stem != Stem::kPixels || input.out_channels == 0, place, "out_channels (",
          input.out_channels, ") must be 0 for stem 'pixels'; 'linear' has them");
  require(input.downsample.empty() || input.kind == InputKind::kGrid, place,
          "downsample belongs to grids");
  require(input.downsample.empty() || input.stem != Stem::kConv, place,
          "downsample must be absent for stem 'conv': every conv layer divides by 4");
  require(input.downsample.empty() || input.downsample.size() == input.index_dims.size(), place,
          "downsample ", shape_string(input.downsample), " and index_dims ",
          shape_string(input.index_dims), " must have the same number of axes");
}

void check_input(const InputSpec& input) {
  const std::string place = place_of(input);
  check_name(input.name, place);
  check_extents(input.index_dims, place, "index_dims");
  check_extents(input.downsample, place, "downsample");
  require_range(input.channels, 0, kMaxExtent, place, "channels");
  require_range(input.coordinates, 0, 8, place, "coordinates");
  require_range(input.out_channels, 0, kMaxExtent, place, "out_channels");
  require(input.kind == InputKind::kSet || input.coordinates == 0, place, "coordinates (",
          input.coordinates, ") belong to sets");
  require(
      input.kind == InputKind::kText || (input.vocab_size == 0 && input.embedding_channels == 0),
      place, "vocab_size and embedding_channels belong to texts");
  require(std::isfinite(input.mask_probability) && input.mask_probability <= 1, place,
          "mask_probability (", input.mask_probability, ") must be at most 1");
  check_position(input.position, place);
  check_stem(input, place);
  switch (input.kind) {
    case InputKind::kText:
      check_text(input, place);
      break;
    case InputKind::kGrid:
      check_grid(input, place);
      break;
    case InputKind::kLabel:
      check_label(input, place);
      break;
    case InputKind::kSet:
      check_set(input, place);
      break;
  }
}

void check_query(const OutputSpec& output, const std::string& place) {
  const QueryKind query = output.query;
  const bool has_width = query == QueryKind::kLearned || query == QueryKind::kCaller;
  require(has_width ? output.channels > 0 : output.channels == 0, place, "channels (",
          output.channels,
          has_width ? ") must be positive for this query"
                    : ") must be 0: this query has a width of its own");
  const bool fourier = query == QueryKind::kFourier || query == QueryKind::kCoordinates;
  require(fourier == (output.position.kind == PositionKind::kFourier), place,
          "fourier positions belong to queries 'fourier' and 'coordinates', which need them");
  require(output.position.kind != PositionKind::kTrainable, place,
          "position 'trainable' is spelt query 'learned' with channels");
  require(fourier || query == QueryKind::kLearned ||
              (output.position.project_channels == 0 && output.position.num_extra_linears == 0),
          place, "position.project_channels and num_extra_linears belong to positional queries");
  const bool grid = query == QueryKind::kLearned || fourier;
  require(!grid || !output.index_dims.empty(), place, "index_dims is empty");
  require(!output.concat_input || query == QueryKind::kLearned || query == QueryKind::kFourier,
          place, "concat_input belongs to queries 'learned' and 'fourier'");
}

void check_head(const OutputSpec& output, const std::string& place) {
  const HeadKind head = output.head;
  const bool has_width = head != HeadKind::kNone && head != HeadKind::kTiedEmbedding;
  require(has_width == (output.head_channels > 0), place, "head_channels (", output.head_channels,
          has_width ? ") of this head must be positive" : ") must be 0 for this head");
  const bool has_factors = head == HeadKind::kDepthToSpace || head == HeadKind::kConvUpsample ||
                           head == HeadKind::kConvexUpsample;
  require(has_factors
              ? !output.index_dims.empty() && output.head_factors.size() == output.index_dims.size()
              : output.head_factors.empty(),
          place, "head_factors ", shape_string(output.head_factors), " and index_dims ",
          shape_string(output.index_dims),
          has_factors ? ": this head needs one factor per axis" : ": this head has no factors");
  if (head == HeadKind::kConvUpsample) {
    require(output.index_dims.size() == 2 || output.index_dims.size() == 3, place, "index_dims ",
            shape_string(output.index_dims), " of head 'conv_upsample' must have 2 or 3 axes");
    for (const int64_t factor : output.head_factors) {
      require((factor & (factor - 1)) == 0 && factor <= 64, place, "head_factors ",
              shape_string(output.head_factors), " must be powers of two up to 64");
    }
  }
  require(head != HeadKind::kConvexUpsample || output.index_dims.size() == 2, place, "index_dims ",
          shape_string(output.index_dims), " of head 'convex_upsample' must have 2 axes");
  require(std::isfinite(output.divide_by) && output.divide_by != 0, place, "divide_by (",
          output.divide_by, ") must be finite and not 0");
  require(!(output.single_row && (output.keep_grid || output.flatten_channels)), place,
          "single_row excludes keep_grid and flatten_channels");
  require(!(output.keep_grid && output.flatten_channels), place,
          "keep_grid excludes flatten_channels");
}

void check_output(const ModelSpec& spec, const OutputSpec& output) {
  const std::string place = place_of(output);
  check_name(output.name, place);
  check_extents(output.index_dims, place, "index_dims");
  check_extents(output.head_factors, place, "head_factors");
  require_range(output.channels, 0, kMaxExtent, place, "channels");
  require_range(output.head_channels, 0, kMaxExtent, place, "head_channels");
  check_position(output.position, place);
  if (spec.decoder.kind == DecoderKind::kCrossAttend) {
    check_query(output, place);
  }
  check_head(output, place);
  const bool refers = output.query == QueryKind::kInputTokens ||
                      output.query == QueryKind::kInputContent || output.concat_input ||
                      output.head == HeadKind::kTiedEmbedding;
  const auto named = [&](const InputSpec& input) { return input.name == output.of_input; };
  const bool found = std::any_of(spec.inputs.begin(), spec.inputs.end(), named);
  require(found || !refers, place, "of_input '", printable(output.of_input),
          "' must name one of the inputs");
  require(refers || output.of_input.empty(), place, "of_input '", printable(output.of_input),
          "' is not used by this query and head");
  require(output.head != HeadKind::kTiedEmbedding ||
              spec.input(output.of_input).kind == InputKind::kText,
          place, "of_input '", printable(output.of_input),
          "' of head 'tied_embedding' must be a text");
}

void check_attention(const AttentionSpec& attention, const std::string& place) {
  require_range(attention.num_heads, 1, 65536, place, "num_heads");
  require_range(attention.qk_channels, 0, kMaxExtent, place, "qk_channels");
  require_range(attention.v_channels, 0, kMaxExtent, place, "v_channels");
  require_range(attention.widening_factor, 1, 1024, place, "widening_factor");
}

void check_encoder(const EncoderSpec& encoder) {
  const std::string place = "encoder";
  require_range(encoder.num_latents, 1, kMaxExtent, place, "num_latents");
  require_range(encoder.latent_channels, 1, kMaxExtent, place, "latent_channels");
  require_range(encoder.num_blocks, 0, kMaxDepth, place, "num_blocks");
  require_range(encoder.num_self_attends_per_block, 0, kMaxDepth, place,
                "num_self_attends_per_block");
  require(encoder.num_blocks * encoder.num_self_attends_per_block <= 4 * kMaxDepth, place,
          "num_blocks (", encoder.num_blocks, ") times num_self_attends_per_block (",
          encoder.num_self_attends_per_block, ") must be at most ", 4 * kMaxDepth);
  require_range(encoder.num_cross_attends, 1, kMaxDepth, place, "num_cross_attends");
  require(encoder.cross_placement == CrossPlacement::kAtStart ||
              encoder.num_cross_attends <= std::max<int64_t>(encoder.num_blocks, 1),
          place, "num_cross_attends (", encoder.num_cross_attends, ") must be at most num_blocks (",
          encoder.num_blocks, ") when cross_placement is 'interleaved'");
  check_attention(encoder.cross_attend, "encoder.cross_attend");
  check_attention(encoder.self_attend, "encoder.self_attend");
}

void check_decoder(const ModelSpec& spec) {
  const DecoderSpec& decoder = spec.decoder;
  check_attention(decoder.cross_attend, "decoder.cross_attend");
  require_range(decoder.output_channels, 0, kMaxExtent, "decoder", "output_channels");
  require_range(decoder.min_padding_size, 0, kMaxExtent, "decoder", "min_padding_size");
  require(!decoder.final_project || decoder.output_channels > 0, "decoder", "output_channels (",
          decoder.output_channels, ") must be positive with final_project");
  if (decoder.kind == DecoderKind::kProjection) {
    require(decoder.final_project, "decoder", "kind 'projection' is a final projection");
    require(spec.outputs.size() == 1, "decoder", "kind 'projection' has exactly one output, not ",
            spec.outputs.size());
  }
}

template <typename Part>
void check_unique(const std::vector<Part>& parts, const char* what) {
  require(!parts.empty(), "model", "there is no ", what);
  require(parts.size() <= kMaxParts, "model", parts.size(), " ", what, "s, at most ", kMaxParts);
  std::set<std::string> seen;
  for (const Part& part : parts) {
    require(seen.insert(part.name).second, "model", "two ", what, "s are named '",
            printable(part.name), "'");
  }
}

}  // namespace

std::string place_of(const InputSpec& input) {
  return "input " + printable(input.name);
}
std::string place_of(const OutputSpec& output) {
  return "output " + printable(output.name);
}

void check_fields(const ModelSpec& spec) {
  check_unique(spec.inputs, "input");
  check_unique(spec.outputs, "output");
  for (const InputSpec& input : spec.inputs) {
    check_input(input);
  }
  check_encoder(spec.encoder);
  check_decoder(spec);
  for (const OutputSpec& output : spec.outputs) {
    check_output(spec, output);
  }
  require_range(spec.min_padding_size, 0, kMaxExtent, "model", "min_padding_size");
  const Compatibility& compatibility = spec.compatibility;
  const auto fraction = [](double value) { return value >= 0 && value < 1; };
  require(compatibility.layer_norm_eps > 0 && compatibility.layer_norm_eps < 1, "compatibility",
          "layer_norm_eps (", compatibility.layer_norm_eps, ") must be between 0 and 1");
  require(fraction(compatibility.dropout), "compatibility", "dropout (", compatibility.dropout,
          ") must be at least 0 and below 1");
  require(fraction(compatibility.attention_dropout), "compatibility", "attention_dropout (",
          compatibility.attention_dropout, ") must be at least 0 and below 1");
}

}  // namespace perceiver::spec_detail
