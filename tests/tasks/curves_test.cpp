#include "perceiver/tasks/curves.h"

#include <cmath>
#include <fstream>
#include <stdlib.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "tasks/axis.h"

namespace perceiver::tasks {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CurvesTest : public ::testing::Test {
 protected:
  CurvesTest() {
    std::string name = (fs::temp_directory_path() / "perceiver_curves_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~CurvesTest() override { fs::remove_all(folder_); }

  fs::path run_with(const std::string& name, const std::string& log) {
    fs::create_directories(folder_ / name / "training");
    std::ofstream(folder_ / name / "training/log.jsonl") << log;
    return folder_ / name;
  }

  fs::path folder_;
};

constexpr const char* kLog =
    R"({"step": 1, "loss": 2.0, "mean_loss": 2.0, "learning_rate": 0.001, "gradient_norm": 3}
{"step": 2, "loss": 1.0, "mean_loss": 1.9, "learning_rate": 0.002, "metrics": {"accuracy": 0.5}}
{"step": 3, "loss": null, "mean_loss": 1.8, "learning_rate": 0.0005}
{"step": 3, "finished": true, "metrics": {"accuracy": 0.75, "bits": 2}}
{"step": 4, "lo)";

TEST_F(CurvesTest, ReadsARunByFolderByItsTrainingFolderAndByFile) {
  const fs::path run = run_with("digits", kLog);
  for (const fs::path& path : {run, run / "training", run / "training/log.jsonl", run / ""}) {
    const RunCurves curves = read_curves(path);
    EXPECT_EQ(curves.name, "digits") << path;
    ASSERT_NE(curves.find("loss"), nullptr);
    EXPECT_EQ(curves.find("loss")->points.size(), 2U) << "null and torn lines have none";
    EXPECT_EQ(curves.find("mean_loss")->points.size(), 3U);
    const Curve* accuracy = curves.find("test/accuracy");
    ASSERT_NE(accuracy, nullptr);
    ASSERT_EQ(accuracy->points.size(), 2U);
    EXPECT_EQ(accuracy->points[1].step, 3);
    EXPECT_EQ(accuracy->points[1].value, 0.75);
  }
}

TEST_F(CurvesTest, SaysWhatIsMissing) {
  const auto message = [](const fs::path& path) -> std::string {
    try {
      read_curves(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(folder_), HasSubstr("no training/log.jsonl in here"));
  EXPECT_THAT(message(folder_ / "nothing"), HasSubstr("nothing: No such file"));
  EXPECT_THAT(message(run_with("empty", "hello\n[1]\n{\"step\": \"x\"}\n")),
              HasSubstr("holds no logged step"));
}

TEST_F(CurvesTest, DrawsAPanelPerQuantityAndALinePerRun) {
  const std::vector<RunCurves> runs{read_curves(run_with("a", kLog)),
                                    read_curves(run_with("b<&", kLog))};
  EXPECT_THAT(plotted_quantities(runs, {}),
              ElementsAre("loss", "learning_rate", "gradient_norm", "test/accuracy", "test/bits"));
  const std::string svg = curves_svg(runs, {});
  const auto count = [&](const std::string& text) {
    size_t found = 0;
    for (size_t at = svg.find(text); at != std::string::npos; at = svg.find(text, at + 1)) {
      ++found;
    }
    return found;
  };
  EXPECT_EQ(count("<g transform"), 5U);
  EXPECT_EQ(count("<polyline"), 2U * 4);                  // loss, its mean, learning rate, accuracy
  EXPECT_EQ(count("<circle"), 2U * (3 + 3 + 1 + 2 + 1));  // few points are dots too, pale ones not
  EXPECT_EQ(count("b&lt;&amp;"), 1U + 4U);
  EXPECT_EQ(count("b<"), 0U);
  // Steps 0..3 are 388 pixels wide from 66 on; accuracies 0.5 to 0.75 span the axis.
  EXPECT_THAT(svg, HasSubstr("points=\"324.7,244.0 454.0,34.0\""));
}

TEST_F(CurvesTest, DrawsWhatIsAskedFor) {
  const std::vector<RunCurves> runs{read_curves(run_with("a", kLog))};
  PlotOptions options;
  options.only = {"loss"};
  options.logarithmic = {"loss"};
  const std::string svg = curves_svg(runs, options);
  // From 1 to 2 on a logarithmic axis, sqrt(2) would lie in the middle.
  EXPECT_THAT(svg, HasSubstr("195.3,34.0 324.7,244.0"));
  EXPECT_EQ(svg.find("gradient_norm"), std::string::npos);
  options.only = {"los"};
  EXPECT_THROW(curves_svg(runs, options), Error);
  options.only = {};
  options.logarithmic = {"test/nothing"};
  EXPECT_THROW(curves_svg(runs, options), Error);
}

TEST_F(CurvesTest, NoLogarithmicAxisForValuesNotAboveZero) {
  const std::vector<RunCurves> runs{
      read_curves(run_with("a", "{\"step\": 1, \"loss\": 0}\n{\"step\": 2, \"loss\": 1}\n"))};
  PlotOptions options;
  options.logarithmic = {"loss"};
  EXPECT_THROW(curves_svg(runs, options), Error);
}

TEST_F(CurvesTest, ALongRunStaysASmallPictureAndKeepsItsPeaks) {
  std::string log;
  for (int step = 1; step <= 50000; ++step) {
    log += cat("{\"step\":", step, ",\"loss\":", step == 31234 ? 100 : 1, "}\n");
  }
  const std::string svg = curves_svg({read_curves(run_with("long", log))}, {});
  EXPECT_LT(svg.size(), 40000U);
  EXPECT_THAT(svg, HasSubstr(",34.0 "));  // 100 is the axis's top
}

TEST(AxisTest, TicksAreRound) {
  EXPECT_THAT(linear_axis(0.13, 0.97, 5).ticks, ElementsAre(0, 0.2, 0.4, ::testing::_, 0.8, 1));
  EXPECT_THAT(linear_axis(0, 3000, 5, true).ticks, ElementsAre(0, 1000, 2000, 3000));
  EXPECT_THAT(linear_axis(-7, 12, 4).ticks, ElementsAre(-10, -5, 0, 5, 10, 15));
  EXPECT_THAT(logarithmic_axis(0.3, 4).ticks, ElementsAre(0.2, 0.5, 1, 2, 5));
  EXPECT_EQ(logarithmic_axis(2e-5, 3).ticks.size(), 7U);
  EXPECT_DOUBLE_EQ(logarithmic_axis(0.1, 10).place(1), 0.5);
}

TEST(AxisTest, FlatValuesLieInTheMiddle) {
  for (const double value : {0.0, 5.0, -2.0, 1e-12, 1e12}) {
    const Axis axis = linear_axis(value, value, 5);
    EXPECT_LT(axis.low, value);
    EXPECT_GT(axis.high, value);
    EXPECT_TRUE(std::isfinite(axis.place(value)));
    EXPECT_GE(axis.ticks.size(), 2U);
    EXPECT_LE(axis.ticks.size(), 20U);
  }
  EXPECT_NEAR(logarithmic_axis(3, 3).place(3), 0.5, 0.3);
}

TEST(AxisTest, NumbersAreShort) {
  EXPECT_EQ(tick_text(0), "0");
  EXPECT_EQ(tick_text(0.1 + 0.2), "0.3");
  EXPECT_EQ(tick_text(2000), "2000");
  EXPECT_EQ(tick_text(15000), "15k");
  EXPECT_EQ(tick_text(2.5e6), "2.5M");
  EXPECT_EQ(tick_text(2e-5), "2e-5");
  EXPECT_EQ(tick_text(-0.05), "-0.05");
}

}  // namespace
}  // namespace perceiver::tasks
