#include "train/start_from.h"

#include <algorithm>
#include <cstring>
#include <set>

#include <nlohmann/json.hpp>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/tasks/bundle.h"

namespace perceiver::train {
namespace {

constexpr size_t kMaxListed = 8;

bool begins_with_any(const std::string& name, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) { return name.starts_with(prefix); });
}

bool is_head(const std::string& name) {
  return begins_with_any(name, {"outputs.", "decoder.final."});
}

// Tensors of which the first rows mean the same whatever the number of rows: a larger vocabulary
// adds tokens at the end, a longer text adds positions there.
std::set<std::string> tables_by_row(const ModelSpec& model) {
  std::set<std::string> names;
  for (const InputSpec& input : model.inputs) {
    if (input.kind == InputKind::kText) {
      names.insert("inputs." + input.name + ".embedding.weight");
      names.insert("inputs." + input.name + ".position.table");
    }
  }
  return names;
}

bool same_but_for_rows(const Array& a, const Array& b) {
  return a.dim() == b.dim() && a.dim() > 0 &&
         std::equal(a.shape().begin() + 1, a.shape().end(), b.shape().begin() + 1);
}

// The first rows of `given`, as many as both have, over those of `into`.
void copy_rows(const Array& given, Array& into) {
  const Array converted = given.to(into.dtype());
  const int64_t bytes = std::min(converted.nbytes(), into.nbytes());
  std::memcpy(into.mutable_bytes(), converted.bytes(), static_cast<size_t>(bytes));
}

std::string listed(const std::vector<std::string>& lines) {
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), kMaxListed); ++i) {
    text += (i == 0 ? "" : "; ") + lines[i];
  }
  return lines.size() <= kMaxListed ? text
                                    : cat(text, "; and ", lines.size() - kMaxListed, " more");
}

// Widths say nothing of how many heads share them: with another number the same tensors compute
// something else.
void check_heads(const ModelSpec& there, const ModelSpec& here, const std::string& where) {
  struct Part {
    const char* name;
    const AttentionSpec& there;
    const AttentionSpec& here;
  };
  const Part parts[] = {
      {"encoder.cross_attend", there.encoder.cross_attend, here.encoder.cross_attend},
      {"encoder.self_attend", there.encoder.self_attend, here.encoder.self_attend},
      {"decoder.cross_attend", there.decoder.cross_attend, here.decoder.cross_attend}};
  for (const Part& part : parts) {
    if (part.there.num_heads != part.here.num_heads) {
      throw Error(ErrorCode::kArgument,
                  cat(where, ": ", part.name, ".num_heads is ", part.there.num_heads,
                      " there, the recipe's model has ", part.here.num_heads));
    }
  }
}

// Differences under which weights keep their shapes but not quite their meaning.
std::vector<std::string> differences(const ModelSpec& there, const ModelSpec& here) {
  std::vector<std::string> notes;
  const auto compare = [&](const char* what, auto a, auto b) {
    if (a != b) {
      notes.push_back(cat(what, " is ", a, " in the model started from, ", b, " in the recipe's"));
    }
  };
  compare("encoder.num_blocks", there.encoder.num_blocks, here.encoder.num_blocks);
  compare("encoder.num_cross_attends", there.encoder.num_cross_attends,
          here.encoder.num_cross_attends);
  compare("encoder.cross_attend.use_query_residual", there.encoder.cross_attend.use_query_residual,
          here.encoder.cross_attend.use_query_residual);
  compare("decoder.cross_attend.use_query_residual", there.decoder.cross_attend.use_query_residual,
          here.decoder.cross_attend.use_query_residual);
  if (there.compatibility.activation != here.compatibility.activation) {
    notes.emplace_back("compatibility.activation differs from that of the model started from");
  }
  return notes;
}

// Sorts the recipe's tensors into taken and fresh. @return what stands in the way, a line each
std::vector<std::string> take_each(const StartFrom& from, const ModelSpec& model,
                                   const ArrayMap& given, ArrayMap& weights, StartReport& report) {
  const std::set<std::string> by_row = tables_by_row(model);
  std::vector<std::string> misfits;
  for (auto& [name, tensor] : weights) {
    const auto found = given.find(name);
    const bool whole = found != given.end() && found->second.shape() == tensor.shape();
    const bool in_part =
        found != given.end() && by_row.count(name) != 0 && same_but_for_rows(found->second, tensor);
    if (begins_with_any(name, from.except) || (is_head(name) && !whole)) {
      report.fresh.push_back(name);
    } else if (whole || in_part) {
      copy_rows(found->second, tensor);
      report.taken.push_back(name);
    } else if (found == given.end()) {
      misfits.push_back(cat(printable(name), " is not there"));
    } else {
      misfits.push_back(cat(printable(name), " is ", shape_string(found->second.shape()),
                            " there, ", shape_string(tensor.shape()), " here"));
    }
  }
  return misfits;
}

}  // namespace

StartReport take_weights(const StartFrom& from, const ModelSpec& model, ArrayMap& weights) {
  const std::string where = cat("start_from ", printable(from.model.string()));
  const tasks::Bundle there = tasks::load_bundle(from.model);
  StartReport report;
  report.model = from.model;
  report.notes = differences(there.spec, model);
  std::vector<std::string> misfits = take_each(from, model, there.weights, weights, report);
  for (const auto& [name, tensor] : there.weights) {
    if (weights.count(name) == 0) {
      report.unused.push_back(name);
      if (!is_head(name) && !begins_with_any(name, from.except)) {
        misfits.push_back(cat(printable(name), " is there, but not in the recipe's model"));
      }
    }
  }
  if (!misfits.empty()) {
    throw Error(ErrorCode::kArgument,
                cat(where, " does not fit the recipe's model: ", listed(misfits),
                    ". start_from.except may list beginnings of names to train afresh"));
  }
  if (report.taken.empty()) {
    throw Error(ErrorCode::kArgument, cat(where, ": nothing of it would be used"));
  }
  check_heads(there.spec, model, where);
  return report;
}

Json to_json(const StartReport& report) {
  return {{"model", report.model.string()},
          {"taken", report.taken},
          {"fresh", report.fresh},
          {"unused", report.unused},
          {"notes", report.notes}};
}

}  // namespace perceiver::train
