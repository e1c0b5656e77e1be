#include "perceiver/io/flow_file.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>

#include "media_fixture.h"
#include "perceiver/io/image.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::failure;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
class FlowFileTest : public test::MediaTest {};

Flow small_flow() {
  Flow flow =
      make_flow(Array::of<float>({2, 2, 2}, {0.5F, -1.25F, 3.0F, 0.0F, -7.0F, 8.0F, 1.0F, 2.0F}));
  flow.valid.mutable_data<bool>()[2] = false;
  return flow;
}

std::vector<float> values(const Array& uv) {
  return {uv.data<float>(), uv.data<float>() + uv.numel()};
}
std::vector<bool> flags(const Array& valid) {
  return std::vector<bool>(valid.data<bool>(), valid.data<bool>() + valid.numel());
}

TEST_F(FlowFileTest, FloRoundTripsWithUnknownPixels) {
  write_flo(folder_ / "a.flo", small_flow());
  const Flow read = read_flow(folder_ / "a.flo");
  EXPECT_THAT(values(read.uv), ElementsAre(0.5F, -1.25F, 3.0F, 0.0F, 0.0F, 0.0F, 1.0F, 2.0F));
  EXPECT_THAT(flags(read.valid), ElementsAre(true, true, false, true));
}

TEST_F(FlowFileTest, FloLayoutIsTagWidthHeightThenRows) {
  const std::string bytes("PIEH\x01\0\0\0\x02\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\0\xbf\0\0\0\0", 28);
  const Flow flow = decode_flo(bytes, "f");
  EXPECT_EQ(flow.uv.shape(), (std::vector<int64_t>{2, 1, 2}));
  EXPECT_THAT(values(flow.uv), ElementsAre(1.0F, 2.0F, -0.5F, 0.0F));
}

TEST_F(FlowFileTest, BeyondABillionOrNotANumberIsUnknown) {
  write_flo(folder_ / "a.flo",
            make_flow(Array::of<float>(
                {1, 4, 2}, {1e9F, 0.0F, 2e9F, 0.0F, 0.0F, -2e9F, std::nanf(""), 0.0F})));
  EXPECT_THAT(flags(read_flo(folder_ / "a.flo").valid), ElementsAre(true, false, false, false));
}

TEST_F(FlowFileTest, FloSizesMustAgreeWithTheLength) {
  const std::string header("PIEH\x02\0\0\0\x01\0\0\0", 12);
  EXPECT_THAT(failure([&] { decode_flo(header + std::string(15, '\0'), "f"); }),
              AllOf(StartsWith("3 f:"), HasSubstr("truncated"), HasSubstr("28"), HasSubstr("27")));
  EXPECT_THAT(failure([&] { decode_flo(header + std::string(17, '\0'), "f"); }), HasSubstr("29"));
  EXPECT_THAT(failure([&] { decode_flo("PIEH", "f"); }), HasSubstr("truncated"));
  EXPECT_THAT(failure([&] { decode_flo("HEIP0000", "f"); }), HasSubstr("plain text"));
}

TEST_F(FlowFileTest, FloWithHugeOrNegativeSidesIsRefused) {
  const auto sized = [](const std::string& sides) {
    return failure([&] { decode_flo("PIEH" + sides, "f"); });
  };
  EXPECT_THAT(sized("\xff\xff\xff\x7f\xff\xff\xff\x7f"), HasSubstr("limit"));
  EXPECT_THAT(sized(std::string("\xff\xff\xff\xff\x01\0\0\0", 8)), StartsWith("3 f:"));
  EXPECT_THAT(sized(std::string(8, '\0')), StartsWith("3 f:"));
}

TEST_F(FlowFileTest, KittiRoundTripsInSixtyFourths) {
  write_kitti_flow(folder_ / "a.png", small_flow());
  const Image image = read_image(folder_ / "a.png");
  EXPECT_EQ(image.pixels.data<uint16_t>()[0], 32768 + 32);
  EXPECT_EQ(image.pixels.data<uint16_t>()[1], 32768 - 80);
  EXPECT_EQ(image.pixels.data<uint16_t>()[2], 1);
  const Flow read = read_flow(folder_ / "a.png");
  EXPECT_THAT(values(read.uv), ElementsAre(0.5F, -1.25F, 3.0F, 0.0F, 0.0F, 0.0F, 1.0F, 2.0F));
  EXPECT_THAT(flags(read.valid), ElementsAre(true, true, false, true));
}

TEST_F(FlowFileTest, KittiRefusesWhatItCannotHold) {
  const Flow flow = make_flow(Array::of<float>({1, 2, 2}, {0.0F, 0.0F, 513.0F, 0.0F}));
  EXPECT_THAT(failure([&] { write_kitti_flow(folder_ / "a.png", flow); }),
              AllOf(StartsWith("1 "), HasSubstr("513"), HasSubstr("column 1")));
  EXPECT_EQ(entries(), 0u);
}

TEST_F(FlowFileTest, AnEightBitPictureIsNoFlow) {
  write_png(folder_ / "a.png", make_image(Array::zeros(DType::kU8, {2, 2, 3})));
  EXPECT_THAT(failure([&] { read_flow(folder_ / "a.png"); }),
              AllOf(StartsWith("3 "), HasSubstr("8 bits")));
  EXPECT_THAT(failure([&] { read_flow(file("a.flo", "{}")); }), HasSubstr("JSON"));
}

TEST_F(FlowFileTest, ReadsTheSharedGroundTruths) {
  PERCEIVER_SHARED_OR_SKIP(whale, "data/flow/middlebury/RubberWhale/flow10.flo");
  PERCEIVER_SHARED_OR_SKIP(kitti, "data/flow/kitti/flow_gt.png");
  const Flow flow = read_flow(whale);
  EXPECT_EQ(flow.uv.shape(), (std::vector<int64_t>{388, 584, 2}));
  const auto known = flags(flow.valid);
  EXPECT_EQ(std::count(known.begin(), known.end(), true), 222970);
  EXPECT_EQ(read_flow(kitti).uv.shape(), (std::vector<int64_t>{375, 1242, 2}));
}

}  // namespace
}  // namespace perceiver::io
