#include "train/task.h"
#include "train/tasks/audio_task.h"
#include "train/tasks/audio_video_task.h"
#include "train/tasks/dense_task.h"
#include "train/tasks/entity_task.h"
#include "train/tasks/flow_task.h"
#include "train/tasks/image_task.h"
#include "train/tasks/language_task.h"
#include "train/tasks/point_task.h"
#include "train/tasks/series_task.h"
#include "train/tasks/tensor_task.h"
#include "train/tasks/text_tasks.h"
#include "train/tasks/token_labelling_task.h"

namespace perceiver::train {

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds{
      {"audio_classification", read_audio_recipe},
      {"audio_video", read_audio_video_recipe},
      {"image_classification", read_image_recipe},
      {"dense_classification", read_dense_recipe},
      {"masked_language_model", read_language_recipe},
      {"series", read_series_recipe},
      {"text_tasks", read_text_tasks_recipe},
      {"token_labelling", read_token_labelling_recipe},
      {"point_cloud_classification", read_point_recipe},
      {"entity_sets", read_entity_recipe},
      {"tensors", read_tensor_recipe},
      {"optical_flow", read_flow_recipe},
  };
  return kinds;
}

}  // namespace perceiver::train
