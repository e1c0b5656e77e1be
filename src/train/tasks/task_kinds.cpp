#include "train/task.h"
#include "train/tasks/flow_task.h"
#include "train/tasks/image_task.h"
#include "train/tasks/language_task.h"
#include "train/tasks/series_task.h"

namespace perceiver::train {

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds{
      {"image_classification", read_image_recipe},
      {"masked_language_model", read_language_recipe},
      {"series", read_series_recipe},
      {"optical_flow", read_flow_recipe},
  };
  return kinds;
}

}  // namespace perceiver::train
