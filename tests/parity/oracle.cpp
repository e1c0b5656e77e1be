#include "parity/oracle.h"

#include <algorithm>
#include <iomanip>

#include <gtest/gtest.h>

#include "perceiver/base/str.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/nn/engine.h"
#include "perceiver/tasks/forward.h"
#include "support/compare.h"

namespace perceiver::parity {
namespace {

/// The name without `head` and its dot; empty when it begins otherwise.
std::string after(const std::string& name, const std::string& head) {
  return name.rfind(head + ".", 0) == 0 ? name.substr(head.size() + 1) : std::string();
}

ArrayMap stages_of(Engine& engine, const ModelInputs& inputs, const OutputRequest& request) {
  Trace trace;
  trace.attention = true;
  ArrayMap outputs = tasks::name_outputs(engine.spec(), engine.forward(inputs, request, &trace));
  ArrayMap stages = std::move(trace.arrays);
  stages.merge(outputs);
  return stages;
}

/// Our rows are the real ones; the peer may have decoded padding rows after them.
Array same_rows(const std::string& stage, const Array& peer, const Array& ours) {
  const bool map = stage.rfind("attention.decoder", 0) == 0;
  const bool rows = map || stage.rfind("decoder_", 0) == 0 || stage == "logits";
  const int64_t axis = map ? 2 : 1;
  if (!rows || peer.dim() != ours.dim() || peer.dim() <= axis ||
      ours.size(axis) >= peer.size(axis)) {
    return peer;
  }
  return test::prefix(peer, axis, ours.size(axis));
}

void expect_near(const char* kind, const std::string& stage, const Array& ours, const Array& wanted,
                 double bar) {
  const test::Difference apart = test::difference(ours, wanted);
  EXPECT_LE(apart.max_abs, bar) << kind << " " << stage << " " << apart.text;
}

}  // namespace

std::map<std::string, OracleCall> read_oracle(const std::filesystem::path& file,
                                              const std::vector<std::string>& calls) {
  std::map<std::string, OracleCall> out;
  for (const auto& [full_name, array] : io::read_safetensors(file)) {
    for (const char* kind : {"in", "f32", "f64", "f64_tables"}) {
      std::string name = after(full_name, kind);
      if (name.empty()) {
        continue;
      }
      std::string call;
      for (const std::string& candidate : calls) {
        if (const std::string rest = after(name, candidate); !rest.empty()) {
          call = candidate;
          name = rest;
        }
      }
      OracleCall& at = out[call];
      const std::string_view which = kind;
      ArrayMap& map = which == "in" ? at.inputs : which == "f32" ? at.f32 : at.f64;
      if (which == "f64") {
        map.emplace(name, array);
      } else {
        map[name] = array;
      }
    }
  }
  return out;
}

void rename_stages(OracleCall& call, const std::map<std::string, std::string>& names) {
  for (ArrayMap* map : {&call.f32, &call.f64}) {
    for (const auto& [from, to] : names) {
      if (auto node = map->extract(from); !node.empty()) {
        node.key() = to;
        map->insert(std::move(node));
      }
    }
  }
}

std::map<std::string, double> peer_errors(const std::map<std::string, OracleCall>& calls) {
  std::map<std::string, double> largest;
  for (const auto& [name, call] : calls) {
    for (const auto& [stage, exact] : call.f64) {
      const auto rounded = call.f32.find(stage);
      const double scale = test::max_abs(exact);
      if (rounded != call.f32.end() && scale > 0) {
        double& of_stage = largest[stage];
        of_stage = std::max(of_stage, test::difference(rounded->second, exact).max_abs / scale);
      }
    }
  }
  return largest;
}

OurStages run_ours(const ModelSpec& spec, const ArrayMap& weights, const ModelInputs& inputs,
                   const OutputRequest& request) {
  const auto float_engine =
      nn::make_engine(spec, weights, {.dtype = DType::kF32, .tables = DType::kF32});
  const auto double_engine =
      nn::make_engine(spec, weights, {.dtype = DType::kF64, .tables = DType::kF64});
  return {stages_of(*float_engine, inputs, request), stages_of(*double_engine, inputs, request)};
}

OurStages run_ours(const ModelSpec& spec, const ArrayMap& weights, const ArrayMap& tensors) {
  const tasks::ForwardCall call = tasks::forward_call(spec, tensors);
  return run_ours(spec, weights, call.inputs, call.request);
}

void expect_same_stages(const OracleCall& peer, const OurStages& ours, const Bars& bars) {
  for (const auto& [stage, peer_f32] : peer.f32) {
    const auto found = ours.f32.find(stage);
    const auto found_double = ours.f64.find(stage);
    if (found == ours.f32.end() || found_double == ours.f64.end()) {
      ADD_FAILURE() << "we have no stage " << stage;
      continue;
    }
    const Array wanted_f32 = same_rows(stage, peer_f32, found->second);
    const auto exact = peer.f64.find(stage);
    if (exact == peer.f64.end()) {
      expect_near("float32", stage, found->second, wanted_f32,
                  bars.like_f32 * test::max_abs(wanted_f32));
      continue;
    }
    const Array wanted = same_rows(stage, exact->second, found->second);
    const double scale = test::max_abs(wanted);
    expect_near("float64", stage, found_double->second, wanted, bars.f64 * scale);
    const test::Difference theirs = test::difference(wanted_f32, wanted);
    const auto other_calls = bars.peer.find(stage);
    const double largest = other_calls == bars.peer.end()
                               ? theirs.max_abs
                               : std::max(theirs.max_abs, other_calls->second * scale);
    expect_near("float32", stage, found->second, wanted,
                bars.f32_outlier * largest + bars.floor * scale);
    EXPECT_LE(test::difference(found->second, wanted).rms,
              bars.f32_factor * theirs.rms + bars.floor * scale)
        << "float32 " << stage << ", root mean square";
  }
}

}  // namespace perceiver::parity
