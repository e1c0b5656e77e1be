#include "train/task.h"
#include "train/tasks/entity_task.h"
#include "train/tasks/image_task.h"
#include "train/tasks/language_task.h"
#include "train/tasks/point_task.h"
#include "train/tasks/series_task.h"
#include "train/tasks/tensor_task.h"

namespace perceiver::train {

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds{
      {"image_classification", read_image_recipe},
      {"masked_language_model", read_language_recipe},
      {"series", read_series_recipe},
      {"point_cloud_classification", read_point_recipe},
      {"entity_sets", read_entity_recipe},
      {"tensors", read_tensor_recipe},
  };
  return kinds;
}

}  // namespace perceiver::train
