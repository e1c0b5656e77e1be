#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/tokens/engine.h"
#include "runtime/model.h"

// The walk of one forward: sources -> latents -> rows. What describes a call (its sources, its
// queries, names) is made before; the walk itself works in memory of the model, and from the second
// time on that it sees a shape it allocates nothing but results.

namespace perceiver::runtime {

using Sources = std::vector<std::unique_ptr<TokenSource>>;

int64_t count_of(const Sources& sources);

/// Latents, and the inputs where the decoder looks at them again.
class RuntimeEncoded : public Encoded {
 public:
  RuntimeEncoded(std::shared_ptr<RuntimeModel> model, Array latents, Sources sources);
  /// Its keys and values are left to the next latents.
  ~RuntimeEncoded() override;
  RuntimeEncoded(const RuntimeEncoded&) = delete;
  RuntimeEncoded& operator=(const RuntimeEncoded&) = delete;

  Array latents() const override { return latents_; }

  const RuntimeModel* model() const { return model_.get(); }
  int64_t batch() const { return latents_.size(0); }
  const Sources& sources() const { return sources_; }
  /// [B * N, D]
  ConstMatrix rows() const;
  /// Keys and values of these latents, made once.
  const Decoder::Prepared& prepared() const;

 private:
  std::shared_ptr<RuntimeModel> model_;  // the sources view its weights
  Array latents_;
  Sources sources_;
  mutable std::shared_ptr<Decoder::Prepared> prepared_;
};

/// One walk through the encoder's steps.
class Encoding {
 public:
  /// @param trace  receives what it asks for; or null
  Encoding(RuntimeModel& model, Trace* trace);

  /// @param latents  [B, N, D] as the model has them at the start
  void run(const Sources& sources, const std::vector<AttentionPlan>& plans, Array& latents);
  /// Goes on after the cross-attend that an EncoderState has done.
  void process_all(Array& latents);

 private:
  void record_tokens(const Sources& sources);
  void read(const Sources& sources, const std::vector<AttentionPlan>& plans, size_t step,
            Array& latents);
  void record_map(const Sources& sources, const CrossAttendIn& cross,
                  const CrossAttendIn::Queries& queries);
  void process(const EncoderStep& step, Array& latents);
  void record_latents(const Array& latents);

  RuntimeModel& model_;
  Trace* trace_;
  int64_t crosses_ = 0, crosses_done_ = 0, layers_done_ = 0, states_ = 0;
};

/// How one output's scores were computed.
struct OutputChoice {
  const OutputSpec* output;
  ScoreChoice scores;
};

/// One call of decode(): every asked output's rows, block by block.
class Decoding {
 public:
  /// @param choices  overwritten by run() with what it chose
  Decoding(RuntimeModel& model, const RuntimeEncoded& encoded, const OutputRequest& request,
           Trace* trace, std::vector<OutputChoice>& choices);

  size_t outputs() const { return outputs_.size(); }
  /// Room for the rows of an output before its grid head: [B, O, c].
  Array room(size_t output) const;
  /// Computes them.
  void fill(size_t output, Array& rows);
  /// All outputs, in the shapes that are promised.
  ArrayMap run();

 private:
  struct Output {
    const OutputSpec* spec;
    std::unique_ptr<TokenSource> queries;
    int64_t first;  ///< row of its first row, all outputs side by side
  };

  int64_t block_rows(int64_t count) const;
  void make_traces();
  Matrix traced_rows(int64_t b, int64_t first, int64_t count) const;
  void trace_queries(const Output& output, int64_t b, int64_t begin, int64_t end);

  RuntimeModel& model_;
  const RuntimeEncoded& encoded_;
  const OutputRequest& request_;
  Trace* trace_;
  std::vector<OutputChoice>& choices_;
  std::vector<Output> outputs_;
  int64_t total_ = 0;
  float *queries_ = nullptr, *rows_ = nullptr, *map_ = nullptr;
};

}  // namespace perceiver::runtime
