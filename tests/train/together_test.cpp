#include <gtest/gtest.h>

#include "perceiver/distributed/group.h"
#include "perceiver/io/safetensors.h"
#include "perceiver/train/train.h"
#include "train/tiny.h"

// What training makes of its group, with a second process that is only pretended: it has the same
// gradients as this one, and batch-norm statistics that are larger by 2.

namespace perceiver::train {
namespace {

using test::image_recipe;
using test::TemporaryFolder;

class PretendedPair : public distributed::Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 2; }
  std::string description() const override { return "a pretended pair"; }
  void sum(std::vector<double>& values) override {
    for (double& value : values) {
      value *= 2;
    }
  }
  void sum(const std::vector<at::Tensor>& statistics) override {
    for (const at::Tensor& one : statistics) {
      one.mul_(2).add_(2);
    }
  }
  std::unique_ptr<distributed::Pending> start_sum(const at::Tensor& tensor) override {
    tensor.mul_(2);
    return std::make_unique<Done>();
  }
  at::Tensor gather(const at::Tensor& tensor) override {
    return tensor.unsqueeze(0).expand({2, -1}).contiguous();
  }
  void broadcast(const std::vector<at::Tensor>& /*tensors*/) override {}
  void barrier(const std::string& what) override { barriers.push_back(what); }
  void leave(const std::string& problem) noexcept override { left = problem; }

  std::vector<std::string> barriers;
  std::string left;

 private:
  struct Done : distributed::Pending {
    void wait() override {}
  };
};

class Together : public ::testing::Test {
 protected:
  Together() {
    test::write_pictures(folder_, "train", 40);
    test::write_pictures(folder_, "test", 20);
  }

  ArrayMap train_one_step(const std::string& out, distributed::Group* group) {
    Json json = image_recipe();
    json["steps"] = 1;
    json["optimiser"] = {{"kind", "sgd"}, {"learning_rate", 0.1}};
    Json& spec = json["model"]["spec"];
    spec["inputs"][0]["stem"] = "conv";
    spec["inputs"][0]["out_channels"] = 3;
    spec["compatibility"] = {{"conv_padding", "same"}};
    TrainOptions options;
    options.out = folder_ / out;
    options.group = group;
    train(recipe_from_json(json, folder_ / "r.json", {}), options);
    return io::read_safetensors(options.out / "model.safetensors");
  }

  TemporaryFolder folder_;
};

TEST_F(Together, BatchNormStatisticsBecomeTheirMeanAndNothingElseChanges) {
  const ArrayMap alone = train_one_step("alone", nullptr);
  PretendedPair pair;
  const ArrayMap together = train_one_step("pair", &pair);
  int statistics = 0;
  for (const auto& [name, array] : alone) {
    const bool is_statistic = name.find(".running_") != std::string::npos;
    statistics += is_statistic ? 1 : 0;
    if (array.dtype() != DType::kF32) {
      continue;
    }
    for (int64_t i = 0; i < array.numel(); ++i) {
      EXPECT_NEAR(together.at(name).data<float>()[i],
                  array.data<float>()[i] + (is_statistic ? 1.0F : 0.0F), 1e-6)
          << name;
    }
  }
  EXPECT_EQ(statistics, 2);
  EXPECT_EQ(pair.barriers, (std::vector<std::string>{"reading the data", "saving", "measuring"}));
  EXPECT_EQ(pair.left, "");
}

TEST_F(Together, TheOthersAreToldWhyThisOneLeaves) {
  train_one_step("taken", nullptr);
  PretendedPair pair;
  EXPECT_ANY_THROW(train_one_step("taken", &pair));
  EXPECT_NE(pair.left.find("holds a run already"), std::string::npos) << pair.left;
}

}  // namespace
}  // namespace perceiver::train
