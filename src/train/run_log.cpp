#include "train/run_log.h"

#include <algorithm>
#include <chrono>

#include <nlohmann/json.hpp>

#include "perceiver/base/json.h"
#include "train/event_file.h"

namespace perceiver::train {
namespace {

constexpr uint64_t kMaxLogBytes = uint64_t{1} << 30;
// One file a run: TensorBoard takes every file whose name holds "tfevents" as a part of the run.
constexpr const char* kEvents = "events.out.tfevents.perceiver";
constexpr const char* kLines = "log.jsonl";

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

ScalarEvent to_event(const Json& line) {
  ScalarEvent event;
  if (line.contains("time") && line["time"].is_number()) {
    event.wall_time = line["time"].get<double>();
  }
  event.step = line.at("step").get<int64_t>();
  for (const char* name : {"loss", "mean_loss", "learning_rate", "gradient_norm",
                           "examples_per_second", "step_seconds", "waiting_share"}) {
    if (line.contains(name) && line[name].is_number()) {
      event.values.emplace_back(name, line[name].get<double>());
    }
  }
  if (line.contains("metrics") && line["metrics"].is_object()) {
    for (const auto& [name, value] : line["metrics"].items()) {
      if (value.is_number()) {
        event.values.emplace_back("test/" + name, value.get<double>());
      }
    }
  }
  return event;
}

}  // namespace

Json to_json(const StepRecord& record) {
  Json line = {{"step", record.step}, {"seconds", record.seconds}, {"time", now()}};
  if (record.finished) {
    line["finished"] = true;
  } else {
    line.update({{"loss", record.loss},
                 {"mean_loss", record.mean_loss},
                 {"learning_rate", record.learning_rate},
                 {"gradient_norm", record.gradient_norm},
                 {"examples_per_second", record.examples_per_second},
                 {"step_seconds", record.step_seconds},
                 {"waiting_share", record.waiting_share},
                 {"skipped_samples", record.skipped}});
  }
  for (const auto& [name, value] : record.metrics) {
    line["metrics"][name] = value;
  }
  return line;
}

void RunLog::read(int64_t step) {
  std::error_code ignored;
  const std::filesystem::path path = folder_ / kLines;
  if (!std::filesystem::exists(path, ignored)) {
    return;
  }
  const std::string text = read_file(path, kMaxLogBytes);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    const Json record = Json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record["step"].is_number_integer() &&
        record["step"].get<int64_t>() <= step && !record.contains("finished")) {
      const ScalarEvent event = to_event(record);
      start_time_ = lines_.empty() ? event.wall_time : start_time_;
      lines_ += line + "\n";
      events_ += event_record(event);
    }
    at = end + 1;
  }
}

void RunLog::open() {
  lines_file_.emplace(folder_ / kLines, lines_);
  const double start = lines_.empty() ? now() : start_time_;
  events_file_.emplace(folder_ / kEvents, event_file_start(start) + events_);
  lines_.clear();
  events_.clear();
}

void RunLog::add(const StepRecord& record) {
  if (lines_file_) {
    const Json line = to_json(record);
    lines_file_->add(line.dump() + "\n");
    events_file_->add(event_record(to_event(line)));
  }
}

void RunLog::sync() {
  if (lines_file_) {
    lines_file_->sync();
    events_file_->sync();
  }
}

}  // namespace perceiver::train
