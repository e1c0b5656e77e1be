#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "support/shared.h"
#include "train/data/flow_augment.h"
#include "train/data/flow_files.h"
#include "train/data/flow_set.h"
#include "train/flow_tiny.h"

namespace perceiver::train {
namespace {

using test::TemporaryFolder;
using test::tiny_pair;

FlowSceneSpec lively() {
  FlowSceneSpec spec;
  spec.height = 40;
  spec.width = 56;
  spec.layers = 4;
  spec.shift = 6;
  spec.rotation = 12;
  spec.scale = 0.1;
  spec.bend = 1.5;
  return spec;
}

bool equal(const Array& a, const Array& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::equal(a.bytes(), a.bytes() + a.nbytes(), b.bytes());
}

// A flow of [1, n] pixels along x.
io::Flow row_of(const std::vector<float>& u) {
  std::vector<float> uv;
  for (const float value : u) {
    uv.push_back(value);
    uv.push_back(0);
  }
  return io::make_flow(Array::of<float>({1, static_cast<int64_t>(u.size()), 2}, uv));
}

template <typename Run>
std::string message_of(const Run& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

double bilinear(const Array& frame, double x, double y, int64_t channel) {
  const auto x0 = static_cast<int64_t>(x), y0 = static_cast<int64_t>(y);
  const auto at = [&](int64_t row, int64_t column) {
    row = std::min(row, frame.size(0) - 1);
    column = std::min(column, frame.size(1) - 1);
    return static_cast<double>(frame.data<uint8_t>()[3 * (row * frame.size(1) + column) + channel]);
  };
  const double fx = x - static_cast<double>(x0), fy = y - static_cast<double>(y0);
  return (1 - fy) * ((1 - fx) * at(y0, x0) + fx * at(y0, x0 + 1)) +
         fy * ((1 - fx) * at(y0 + 1, x0) + fx * at(y0 + 1, x0 + 1));
}

// Mean difference of levels between the first frame and the second one read where the flow says.
double warp_error(const FlowPair& pair) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < pair.flow.valid.numel(); ++i) {
    const double x = static_cast<double>(i % pair.width()) +
                     static_cast<double>(pair.flow.uv.data<float>()[2 * i]);
    const double y = static_cast<double>(i / pair.width()) +
                     static_cast<double>(pair.flow.uv.data<float>()[2 * i + 1]);
    const bool inside = x >= 0 && y >= 0 && x <= static_cast<double>(pair.width() - 1) &&
                        y <= static_cast<double>(pair.height() - 1);
    const bool hidden = pair.occluded.defined() && pair.occluded.data<bool>()[i];
    if (!inside || hidden || !pair.flow.valid.data<bool>()[i]) {
      continue;
    }
    for (int64_t c = 0; c < 3; ++c, ++count) {
      sum += std::fabs(bilinear(pair.second, x, y, c) -
                       static_cast<double>(pair.first.data<uint8_t>()[3 * i + c]));
    }
  }
  EXPECT_GT(count, 0);
  return sum / static_cast<double>(std::max<int64_t>(1, count));
}

TEST(FlowScene, WhatIsSeenMovesWithItsFlowExactly) {
  int64_t hidden = 0, seen = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const FlowScene scene(lively(), Random{seed});
    Random random{seed, 1};
    for (int i = 0; i < 200; ++i) {
      const Point p{random.uniform(0, 55), random.uniform(0, 39)};
      if (scene.occluded(p)) {
        ++hidden;
        continue;
      }
      ++seen;
      const Colour before = scene.first(p), after = scene.second(scene.moved(p));
      for (size_t c = 0; c < 3; ++c) {
        ASSERT_NEAR(before[c], after[c], 1e-3) << "scene " << seed;
      }
    }
  }
  EXPECT_GT(hidden, 100);
  EXPECT_GT(seen, 2000);
}

TEST(FlowScene, FramesAgreeWithTheFlowWhereNothingIsHidden) {
  double with_flow = 0, without = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    FlowPair pair = FlowScene(lively(), Random{seed}).render();
    with_flow += warp_error(pair);
    pair.flow.uv = Array::zeros(DType::kF32, pair.flow.uv.shape());
    without += warp_error(pair);
  }
  EXPECT_LT(with_flow / 10, 5);
  EXPECT_GT(without / 10, 15);
}

TEST(FlowScene, IsAFunctionOfItsSeed) {
  const FlowPair a = tiny_pair(1), b = tiny_pair(1), c = tiny_pair(2);
  EXPECT_TRUE(equal(a.first, b.first) && equal(a.second, b.second) && equal(a.flow.uv, b.flow.uv));
  EXPECT_FALSE(equal(a.first, c.first));
  EXPECT_FALSE(equal(a.flow.uv, c.flow.uv));
}

TEST(FlowScene, RefusesMotionThatFoldsOver) {
  FlowSceneSpec spec = lively();
  spec.bend = 3;
  EXPECT_EQ(message_of([&] { check_scene_spec(spec, "r.json: data.train[0]"); }),
            "r.json: data.train[0].bend is 3, must be between 0 and 2 for frames of 40x56");
}

TEST(FlowScene, TexturesComeFromPictures) {
  const TemporaryFolder folder;
  Array red = Array::zeros(DType::kU8, {9, 7, 3});
  for (int64_t i = 0; i < red.numel(); i += 3) {
    red.mutable_data<uint8_t>()[i] = 200;
  }
  io::write_png(folder / "red.png", io::make_image(red));
  FlowSceneSpec spec = lively();
  spec.pictures = list_pictures(folder.path());
  const FlowPair pair = FlowScene(spec, Random{1}).render();
  EXPECT_EQ(pair.first.data<uint8_t>()[0], 200);
  EXPECT_EQ(pair.second.data<uint8_t>()[1], 0);
}

TEST(FlowPairs, TheWayBackIsTheMeanOfWhatLands) {
  // pixels 0 and 1 land on 2, pixel 3 leaves, pixel 4 stays; nothing lands on 0, 1, 3
  const io::Flow back = inverse_flow(row_of({2.2F, 1.2F, 2.4F, 9, 0}));
  EXPECT_EQ(back.valid.data<bool>()[0], false);
  EXPECT_EQ(back.valid.data<bool>()[1], false);
  EXPECT_EQ(back.valid.data<bool>()[3], false);
  ASSERT_TRUE(back.valid.data<bool>()[2]);
  EXPECT_FLOAT_EQ(back.uv.data<float>()[4], -1.7F);
  ASSERT_TRUE(back.valid.data<bool>()[4]);
  EXPECT_FLOAT_EQ(back.uv.data<float>()[8], -1.2F);  // of 2.4 and 0
}

TEST(FlowPairs, InvalidFlowDoesNotLand) {
  io::Flow flow = row_of({1, 0});
  flow.valid.mutable_data<bool>()[0] = false;
  const io::Flow back = inverse_flow(flow);
  EXPECT_TRUE(back.valid.data<bool>()[1]);
  EXPECT_EQ(back.uv.data<float>()[2], 0);
}

TEST(FlowPairs, AReversedPairWarpsBackwards) {
  double sum = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    FlowSceneSpec spec = lively();
    spec.layers = 0;
    sum += warp_error(reversed(FlowScene(spec, Random{seed}).render()));
  }
  EXPECT_LT(sum / 8, 9);  // the mean is only near the true inverse
}

TEST(FlowPairs, SmallFramesAreExtendedWithoutFlow) {
  const FlowPair pair = crop(tiny_pair(3, 10, 12), 0, 0, {16, 8});
  EXPECT_EQ(pair.first.shape(), (std::vector<int64_t>{16, 8, 3}));
  EXPECT_TRUE(pair.flow.valid.data<bool>()[9 * 8]);
  EXPECT_FALSE(pair.flow.valid.data<bool>()[10 * 8]);
  EXPECT_EQ(pair.first.data<uint8_t>()[3 * 15 * 8], pair.first.data<uint8_t>()[3 * 9 * 8]);
  EXPECT_THROW(crop(pair, 1, 0, {16, 8}), Error);
}

TEST(FlowAugment, NothingAskedChangesNothing) {
  const FlowPair pair = tiny_pair(4);
  Random random{1};
  const FlowPair same = augment_flow(pair, {}, CropPlace::kRandom, {24, 32}, random);
  EXPECT_TRUE(equal(pair.first, same.first) && equal(pair.second, same.second));
  EXPECT_TRUE(equal(pair.flow.uv, same.flow.uv) && equal(pair.occluded, same.occluded));
}

TEST(FlowAugment, FlowFollowsFlipsAndScales) {
  FlowSceneSpec spec = lively();
  spec.layers = 0;
  FlowAugmentSpec augment;
  augment.flip_horizontal = augment.flip_vertical = 0.5;
  augment.scale_probability = 1;
  augment.scale_min = -0.2;
  augment.scale_max = 1;
  augment.stretch_probability = 1;
  augment.stretch = 0.3;
  double with_flow = 0, without = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Random random{seed};
    FlowPair pair = augment_flow(FlowScene(spec, Random{seed}).render(), augment,
                                 CropPlace::kRandom, {24, 32}, random);
    EXPECT_EQ(pair.first.shape(), (std::vector<int64_t>{24, 32, 3}));
    with_flow += warp_error(pair);
    pair.flow.uv = Array::zeros(DType::kF32, pair.flow.uv.shape());
    without += warp_error(pair);
  }
  EXPECT_LT(with_flow, 0.3 * without);
}

TEST(FlowAugment, AFlipTwiceAsLargeIsExact) {
  FlowPair pair = tiny_pair(6, 8, 8);
  for (int64_t i = 0; i < 64; ++i) {
    pair.flow.uv.mutable_data<float>()[2 * i] = 1.5F;
    pair.flow.uv.mutable_data<float>()[2 * i + 1] = -0.5F;
  }
  FlowAugmentSpec augment;
  augment.flip_horizontal = 1;
  augment.scale_probability = 1;
  augment.scale_min = augment.scale_max = 1;
  Random random{1};
  const FlowPair twice = augment_flow(pair, augment, CropPlace::kMiddle, {16, 16}, random);
  EXPECT_FLOAT_EQ(twice.flow.uv.data<float>()[0], -3);
  EXPECT_FLOAT_EQ(twice.flow.uv.data<float>()[1], -1);
  EXPECT_EQ(twice.first.data<uint8_t>()[0], pair.first.data<uint8_t>()[3 * 7]);
}

TEST(FlowAugment, SparseFlowStaysSparse) {
  FlowPair pair = tiny_pair(7);
  std::fill_n(pair.flow.valid.mutable_data<bool>(), pair.flow.valid.numel(), false);
  pair.flow.valid.mutable_data<bool>()[12 * 32 + 16] = true;
  FlowAugmentSpec augment;
  augment.scale_probability = 1;
  augment.scale_min = augment.scale_max = 1;
  Random random{1};
  const FlowPair large = augment_flow(pair, augment, CropPlace::kMiddle, {24, 32}, random);
  const bool* valid = large.flow.valid.data<bool>();
  EXPECT_EQ(std::count(valid, valid + large.flow.valid.numel(), true), 4);
}

TEST(FlowAugment, TheEraserTouchesTheSecondFrameAlone) {
  const FlowPair pair = tiny_pair(8);
  FlowAugmentSpec augment;
  augment.eraser = 1;
  augment.eraser_min = 4;
  augment.eraser_max = 8;
  Random random{1};
  const FlowPair erased = augment_flow(pair, augment, CropPlace::kRandom, {24, 32}, random);
  EXPECT_TRUE(equal(pair.first, erased.first));
  EXPECT_FALSE(equal(pair.second, erased.second));
  EXPECT_TRUE(equal(pair.flow.uv, erased.flow.uv));
}

TEST(FlowAugment, ColoursChangeAlikeUnlessAsymmetric) {
  FlowPair pair = tiny_pair(9);
  pair.second = pair.first;
  FlowAugmentSpec augment;
  augment.brightness = augment.contrast = augment.saturation = 0.4;
  augment.hue = 0.2;
  Random random{1};
  FlowPair changed = augment_flow(pair, augment, CropPlace::kRandom, {24, 32}, random);
  EXPECT_FALSE(equal(pair.first, changed.first));
  EXPECT_TRUE(equal(changed.first, changed.second));
  augment.asymmetric = 1;
  changed = augment_flow(pair, augment, CropPlace::kRandom, {24, 32}, random);
  EXPECT_FALSE(equal(changed.first, changed.second));
}

TEST(FlowAugment, AThirdOfATurnExchangesChannels) {
  FlowPair pair = tiny_pair(10);
  const uint8_t colour[3] = {200, 100, 50};
  for (int64_t i = 0; i < pair.first.numel(); ++i) {
    pair.first.mutable_data<uint8_t>()[i] = colour[i % 3];
  }
  FlowAugmentSpec augment;
  augment.hue = 0.5;
  // find a draw near +-1/3 by its result: red becomes the largest of another channel
  bool found = false;
  for (uint64_t seed = 0; seed < 40 && !found; ++seed) {
    Random random{seed};
    const FlowPair changed = augment_flow(pair, augment, CropPlace::kRandom, {24, 32}, random);
    const uint8_t* rgb = changed.first.data<uint8_t>();
    EXPECT_EQ(std::max({rgb[0], rgb[1], rgb[2]}), 200);
    EXPECT_EQ(std::min({rgb[0], rgb[1], rgb[2]}), 50);
    found = rgb[1] == 200;
  }
  EXPECT_TRUE(found);
}

TEST(FlowFolders, SintelPairsInOrder) {
  const TemporaryFolder folder;
  test::write_sintel_scene(folder / "training", "alley_1", 2);
  test::write_sintel_scene(folder / "training", "cave_2", 1);
  const auto files = list_sintel(folder.path(), {"clean", "final"}, {}, {});
  ASSERT_EQ(files.size(), 6U);
  EXPECT_EQ(files[1].second, folder / "training/clean/alley_1/frame_0003.png");
  EXPECT_EQ(files[2].flow, folder / "training/flow/cave_2/frame_0001.flo");
  EXPECT_EQ(list_sintel(folder.path(), {"clean"}, {"cave_2"}, {}).size(), 1U);
  EXPECT_EQ(list_sintel(folder.path(), {"clean"}, {}, {"cave_2"}).size(), 2U);
  const FlowPair pair = read_flow_pair(files[0]);
  const FlowPair wanted = tiny_pair(0);
  EXPECT_TRUE(equal(pair.first, wanted.first) && equal(pair.flow.uv, wanted.flow.uv));
  EXPECT_TRUE(equal(pair.occluded, wanted.occluded));
}

TEST(FlowFolders, SintelNamesWhatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_NE(
      message_of([&] { list_sintel(folder.path(), {"clean"}, {}, {}); }).find("/flow: an MPI"),
      std::string::npos);
  test::write_sintel_scene(folder.path(), "alley_1", 2);
  EXPECT_NE(message_of([&] {
              list_sintel(folder.path(), {"clean"}, {"ally_1"}, {});
            }).find("did you mean alley_1?"),
            std::string::npos);
  std::filesystem::remove(folder / "clean/alley_1/frame_0003.png");
  const std::string message = message_of([&] { list_sintel(folder.path(), {"clean"}, {}, {}); });
  EXPECT_NE(message.find("frame_0003.png"), std::string::npos) << message;
}

TEST(FlowFolders, SintelLeavesOutInvalidPixels) {
  const TemporaryFolder folder;
  test::write_sintel_scene(folder.path(), "alley_1", 1);
  std::filesystem::create_directories(folder / "invalid/alley_1");
  Array mask = Array::zeros(DType::kBool, {24, 32});
  mask.mutable_data<bool>()[5] = true;
  test::write_mask(folder / "invalid/alley_1/frame_0001.png", mask);
  const FlowPair pair = read_flow_pair(list_sintel(folder.path(), {"final"}, {}, {})[0]);
  EXPECT_TRUE(pair.flow.valid.data<bool>()[4]);
  EXPECT_FALSE(pair.flow.valid.data<bool>()[5]);
}

TEST(FlowFolders, FlyingChairsWithASplit) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "data");
  for (int i = 1; i <= 3; ++i) {
    const FlowPair pair = tiny_pair(static_cast<uint64_t>(i));
    const std::string stem = (folder / "data/0000").string() + std::to_string(i);
    io::write_png(stem + "_img1.ppm", io::make_image(pair.first));  // content decides, not the name
    io::write_png(stem + "_img2.ppm", io::make_image(pair.second));
    io::write_flo(stem + "_flow.flo", pair.flow);
  }
  EXPECT_EQ(list_flying_chairs(folder.path(), {}, 1).size(), 3U);
  test::write_bytes(folder / "split.txt", "1\n2\n1\n");
  EXPECT_EQ(list_flying_chairs(folder.path(), folder / "split.txt", 1).size(), 2U);
  const auto held_out = list_flying_chairs(folder.path(), folder / "split.txt", 2);
  ASSERT_EQ(held_out.size(), 1U);
  EXPECT_TRUE(equal(read_flow_pair(held_out[0]).flow.uv, tiny_pair(2).flow.uv));
  test::write_bytes(folder / "split.txt", "1\n2\n");
  EXPECT_NE(message_of([&] {
              list_flying_chairs(folder.path(), folder / "split.txt", 1);
            }).find("has 2 entries for the 3 pairs"),
            std::string::npos);
}

TEST(FlowFolders, KittiTellsOcclusionByItsTwoFlows) {
  const TemporaryFolder folder;
  for (const char* part : {"image_2", "flow_occ", "flow_noc"}) {
    std::filesystem::create_directories(folder / "training" / part);
  }
  FlowPair pair = tiny_pair(1);
  const auto root = folder / "training";
  io::write_png(root / "image_2/000000_10.png", io::make_image(pair.first));
  io::write_png(root / "image_2/000000_11.png", io::make_image(pair.second));
  io::write_kitti_flow(root / "flow_occ/000000_10.png", pair.flow);
  pair.flow.valid.mutable_data<bool>()[7] = false;
  io::write_kitti_flow(root / "flow_noc/000000_10.png", pair.flow);
  const auto files = list_kitti(folder.path());
  ASSERT_EQ(files.size(), 1U);
  const FlowPair read = read_flow_pair(files[0]);
  EXPECT_TRUE(read.flow.valid.data<bool>()[7]);
  EXPECT_TRUE(read.occluded.data<bool>()[7]);
  EXPECT_FALSE(read.occluded.data<bool>()[8]);
  EXPECT_NEAR(read.flow.uv.data<float>()[0], pair.flow.uv.data<float>()[0], 1.0 / 128);
}

TEST(FlowFolders, ListsNameTheirLines) {
  const TemporaryFolder folder;
  const FlowPair pair = tiny_pair(1);
  io::write_png(folder / "a.png", io::make_image(pair.first));
  io::write_png(folder / "b.png", io::make_image(pair.second));
  io::write_flo(folder / "f.flo", pair.flow);
  test::write_mask(folder / "o.png", pair.occluded);
  test::write_bytes(folder / "list.tsv",
                    "# pairs\na.png\tb.png\tf.flo\r\na.png\tb.png\tf.flo\to.png\n");
  const auto files = read_flow_list(folder / "list.tsv");
  ASSERT_EQ(files.size(), 2U);
  EXPECT_TRUE(files[0].occlusions.empty());
  EXPECT_TRUE(equal(read_flow_pair(files[1]).occluded, pair.occluded));
  test::write_bytes(folder / "list.tsv", "a.png\tb.png\tf.flo\na.png\tc.png\tf.flo\n");
  const std::string message = message_of([&] { read_flow_list(folder / "list.tsv"); });
  EXPECT_NE(message.find("c.png: line 2 of "), std::string::npos) << message;
  test::write_bytes(folder / "list.json",
                    R"([{"first": "a.png", "second": "b.png", "flow": "f.flo"}])");
  EXPECT_EQ(read_flow_list(folder / "list.json").size(), 1U);
  test::write_bytes(folder / "list.json",
                    R"([{"first": "a.png", "second": "b.png", "flo": "f.flo"}])");
  EXPECT_THROW(read_flow_list(folder / "list.json"), Error);
}

TEST(FlowFolders, FilesOfDifferentSizesAreNamedWithBoth) {
  const TemporaryFolder folder;
  io::write_png(folder / "a.png", io::make_image(tiny_pair(1).first));
  io::write_png(folder / "b.png", io::make_image(tiny_pair(1, 24, 40).first));
  io::write_flo(folder / "f.flo", tiny_pair(1).flow);
  FlowFiles files;
  files.first = folder / "a.png";
  files.second = folder / "b.png";
  files.flow = folder / "f.flo";
  const std::string message = message_of([&] { read_flow_pair(files); });
  EXPECT_NE(message.find("b.png has 40x24 pixels"), std::string::npos) << message;
  EXPECT_NE(message.find("a.png has 32x24"), std::string::npos) << message;
}

TEST(FlowSets, SourcesFollowOneAnotherAndRepeat) {
  const TemporaryFolder folder;
  test::write_sintel_scene(folder.path(), "alley_1", 2);
  FlowSource generated;
  generated.examples = 3;
  generated.scene.shift = 2;
  generated.scene.bend = 0.5;
  generated.where = "train[0]";
  FlowSource sintel;
  sintel.layout = FlowLayout::kSintel;
  sintel.path = folder.path();
  sintel.passes = {"clean"};
  sintel.repeat = 2;
  const FlowSet set({generated, sintel}, 1, kFlowScene, {24, 32});
  EXPECT_EQ(set.count(), 7);
  EXPECT_EQ(set.read(0).height(), 24);
  EXPECT_TRUE(equal(set.read(3).flow.uv, tiny_pair(0).flow.uv));
  EXPECT_TRUE(equal(set.read(5).flow.uv, tiny_pair(0).flow.uv));
  EXPECT_TRUE(equal(set.read(6).flow.uv, tiny_pair(1).flow.uv));
  const FlowSet other({generated}, 1, kFlowTestScene, {24, 32});
  EXPECT_FALSE(equal(set.read(0).first, other.read(0).first));
}

// The formats of the data sets as they are, not as we write them.
TEST(FlowFoldersShared, RealFilesOfEveryFormat) {
  PERCEIVER_SHARED_OR_SKIP(root, "data/flow");
  const auto chairs = list_flying_chairs(root / "tiny_50x50", {}, 1);
  ASSERT_EQ(chairs.size(), 1U);
  EXPECT_LT(warp_error(read_flow_pair(chairs[0])), 20);
  FlowFiles sintel;
  sintel.first = root / "sintel_clean_alley_1/frame_0002.png";
  sintel.second = root / "sintel_clean_alley_1/frame_0003.png";
  sintel.flow = root / "sintel_clean_alley_1/frame_0002.flo";
  sintel.occlusions = root / "sintel_clean_alley_1/frame_0002_occlusions.png";
  sintel.invalid = root / "sintel_clean_alley_1/frame_0002_invalid.png";
  const FlowPair alley = read_flow_pair(sintel);
  EXPECT_EQ(alley.width(), 1024);
  EXPECT_LT(warp_error(alley), 4);
  FlowFiles kitti;
  kitti.first = root / "kitti/frame1.png";
  kitti.second = root / "kitti/frame2.png";
  kitti.flow = root / "kitti/flow_gt.png";
  const FlowPair road = read_flow_pair(kitti);
  const bool* valid = road.flow.valid.data<bool>();
  const double share =
      static_cast<double>(std::count(valid, valid + road.flow.valid.numel(), true)) /
      static_cast<double>(road.flow.valid.numel());
  EXPECT_NEAR(share, 0.16, 0.01);
  EXPECT_LT(warp_error(road), 30);
}

}  // namespace
}  // namespace perceiver::train
