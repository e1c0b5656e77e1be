#include "perceiver/tokens/flow_tiles.h"

#include <algorithm>
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/base/error.h"
#include "perceiver/io/safetensors.h"
#include "support/shared.h"

namespace perceiver::tokens {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

std::vector<float> values(const Array& array) {
  return {array.data<float>(), array.data<float>() + array.numel()};
}

TEST(FlowTiles, SintelFramesTakeSix) {
  EXPECT_THAT(flow_tiles(436, 1024), ElementsAre(Tile{0, 0}, Tile{0, 476}, Tile{0, 528},
                                                 Tile{68, 0}, Tile{68, 476}, Tile{68, 528}));
}

TEST(FlowTiles, TheFixtureGridOfSmallTiles) {
  EXPECT_THAT(flow_tiles(11, 15, {6, 8}, 2),
              ElementsAre(Tile{0, 0}, Tile{0, 6}, Tile{0, 7}, Tile{4, 0}, Tile{4, 6}, Tile{4, 7},
                          Tile{5, 0}, Tile{5, 6}, Tile{5, 7}));
}

TEST(FlowTiles, SmallModelsOverlapByHalfATileAtMost) {
  EXPECT_EQ(flow_overlap({}), 20);
  EXPECT_EQ(flow_overlap({32, 48}), 16);
  EXPECT_EQ(flow_overlap({32, 48}, 4), 4);
  EXPECT_EQ(flow_tiles(64, 48, {32, 48}, flow_overlap({32, 48})).size(), 3U);
}

TEST(FlowTiles, RepeatedTilesAreRunOnceAndCounted) {
  EXPECT_THAT(flow_tiles(368, 496), ElementsAre(Tile{0, 0, 4}));
  EXPECT_THAT(flow_tiles(368, 972), ElementsAre(Tile{0, 0, 2}, Tile{0, 476, 4}));
}

TEST(FlowTiles, SmallFramesTakeOneTile) {
  EXPECT_THAT(flow_tiles(10, 12), ElementsAre(Tile{0, 0}));
  EXPECT_THAT(flow_tiles(10, 600), ElementsAre(Tile{0, 0}, Tile{0, 104}));
}

TEST(FlowTiles, LieInsideTheFrameAndCoverItForAnySizeAndOverlap) {
  for (int64_t overlap = 0; overlap < 7; ++overlap) {
    for (int64_t size = 1; size < 60; ++size) {
      std::vector<int> covered(static_cast<size_t>(std::max<int64_t>(size, 7)));
      for (const Tile& tile : flow_tiles(7, size, {7, 7}, overlap)) {
        ASSERT_LE(tile.x + 7, std::max<int64_t>(size, 7)) << size << " by " << overlap;
        for (int64_t x = tile.x; x < tile.x + 7; ++x) {
          covered[static_cast<size_t>(x)] = 1;
        }
      }
      EXPECT_EQ(std::count(covered.begin(), covered.end(), 0), 0) << size << " by " << overlap;
    }
  }
}

TEST(FlowTiles, ARestSmallerThanTheOverlapNeedsNoTileOfItsOwn) {
  // The colab's grid would put a tile at 476, which reaches to 972.
  EXPECT_THAT(flow_tiles(368, 960), ElementsAre(Tile{0, 0, 2}, Tile{0, 464, 2}));
}

TEST(FlowTiles, RefusesImpossibleOverlaps) {
  EXPECT_THROW(flow_tiles(9, 9, {4, 4}, 4), Error);
  EXPECT_THROW(flow_tiles(9, 9, {4, 4}, -1), Error);
  EXPECT_THROW(flow_tiles(0, 9, {4, 4}, 1), Error);
}

TEST(FlowTileWeights, ArePyramids) {
  EXPECT_THAT(values(flow_tile_weights({3, 5})),
              ElementsAre(1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1));
}

TEST(NormalizeFrame, MapsLevelsToMinusOneToOne) {
  const Array out = normalize_frame(Array::of<uint8_t>({1, 1, 3}, {0, 51, 255}));
  EXPECT_THAT(values(out), Pointwise(FloatNear(1e-7F), {-1.0F, -0.6F, 1.0F}));
  EXPECT_THROW(normalize_frame(Array::zeros(DType::kF32, {1, 1, 3})), Error);
}

TEST(PadToTile, RepeatsTheLastRowAndColumn) {
  const Array out = pad_to_tile(Array::of<float>({2, 1, 1}, {1, 2}), {3, 2});
  EXPECT_THAT(values(out), ElementsAre(1, 1, 2, 2, 2, 2));
  const Array large = Array::zeros(DType::kF32, {4, 4, 1});
  EXPECT_EQ(pad_to_tile(large, {3, 2}).bytes(), large.bytes());
}

TEST(FlowTilePatches, EqualDeepMindsPatches) {
  PERCEIVER_SHARED_OR_SKIP(file, "fixtures/deepmind/optical_flow/io.safetensors");
  const ArrayMap io = io::read_safetensors(file);
  const Array &images = io.at("in.images"), &wanted = io.at("f32.patches");
  for (int64_t b = 0; b < 2; ++b) {
    const Array pair = images.rows(b, b + 1).reshape({2, 6, 8, 3});
    const Array got = flow_tile_patches(pair.rows(0, 1).reshape({6, 8, 3}),
                                        pair.rows(1, 2).reshape({6, 8, 3}), {0, 0}, {6, 8});
    EXPECT_EQ(values(got), values(wanted.rows(b, b + 1)));
  }
}

TEST(FlowTilePatches, AreZeroBeyondTheTileNotTheFrame) {
  const Array frame = Array::of<float>({1, 3, 1}, {1, 2, 3});
  const Array patches = flow_tile_patches(frame, frame, {0, 1}, {1, 2});
  EXPECT_EQ(patches.shape(), (std::vector<int64_t>{1, 2, 1, 2, 9}));
  EXPECT_THAT(values(patches.reshape({4, 9}).rows(0, 1)), ElementsAre(0, 0, 0, 0, 2, 3, 0, 0, 0));
  EXPECT_THROW(flow_tile_patches(frame, frame, {0, 2}, {1, 2}), Error);
  EXPECT_THROW(flow_tile_patches(frame, Array::zeros(DType::kF32, {1, 4, 1}), {0, 0}, {1, 2}),
               Error);
}

TEST(ExtractPatches, EqualsDeepMindForBothPaddings) {
  PERCEIVER_SHARED_OR_SKIP(file, "fixtures/deepmind/components/io.safetensors");
  const ArrayMap io = io::read_safetensors(file);
  const Array& image = io.at("in.extract_patches.image");
  for (const auto& [name, padding] :
       {std::pair{"SAME", PatchPadding::kSame}, {"VALID", PatchPadding::kValid}}) {
    const Array got = extract_patches(image, {2, 3}, {1, 2}, {2, 1}, padding);
    const Array& wanted = io.at(std::string("f32.extract_patches.") + name);
    EXPECT_EQ(got.shape(), wanted.shape()) << name;
    EXPECT_EQ(values(got), values(wanted)) << name;
  }
}

TEST(FlowBlender, WeightsOverlapsAndCountsRepeats) {
  FlowBlender blender(1, 5, {1, 3});
  blender.add({0, 0}, Array::of<float>({1, 3, 2}, {1, 10, 1, 10, 1, 10}));
  blender.add({0, 2, 3}, Array::of<float>({1, 3, 2}, {5, 50, 5, 50, 5, 50}));
  // Every weight is 1 here (one row), so the shared pixel is (1 + 3 * 5) / 4.
  EXPECT_THAT(values(blender.finish()), ElementsAre(1, 10, 1, 10, 4, 40, 5, 50, 5, 50));
}

TEST(FlowBlender, CutsWhatWasPadded) {
  FlowBlender blender(2, 1, {3, 3});
  blender.add({0, 0},
              Array::of<float>({3, 3, 2}, {1, 2, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_THAT(values(blender.finish()), ElementsAre(1, 2, 3, 4));
}

TEST(FlowBlender, RefusesHolesAndMisfits) {
  FlowBlender blender(1, 5, {1, 3});
  EXPECT_THROW(blender.finish(), Error);
  EXPECT_THROW(blender.add({0, 3}, Array::zeros(DType::kF32, {1, 3, 2})), Error);
  EXPECT_THROW(blender.add({0, 0}, Array::zeros(DType::kF32, {3, 1, 2})), Error);
}

TEST(FlowBlender, RebuildsAFlowFromItsOwnTiles) {
  const TileSize tile{6, 8};
  Array flow = Array::zeros(DType::kF32, {11, 15, 2});
  for (int64_t i = 0; i < flow.numel(); ++i) {
    flow.mutable_data<float>()[i] = std::sin(static_cast<float>(i));
  }
  FlowBlender blender(11, 15, tile);
  for (const Tile& at : flow_tiles(11, 15, tile, 2)) {
    Array part = Array::zeros(DType::kF32, {6, 8, 2});
    for (int64_t y = 0; y < 6; ++y) {
      std::copy_n(flow.data<float>() + ((at.y + y) * 15 + at.x) * 2, 16,
                  part.mutable_data<float>() + y * 16);
    }
    blender.add(at, part);
  }
  EXPECT_THAT(values(blender.finish()), Pointwise(FloatNear(1e-6F), values(flow)));
}

}  // namespace
}  // namespace perceiver::tokens
