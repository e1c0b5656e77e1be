#include "perceiver/io/point_cloud.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

using test::refusal;
using ::testing::HasSubstr;

constexpr const char* kBody = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n";

std::string refused(const std::string& text, ErrorCode code = ErrorCode::kFormat) {
  return refusal(code, [&] { decode_off(text, "m.off"); });
}

TEST(Off, ReadsEverySpellingOfItsHeader) {
  for (const std::string header : {"OFF\n4 2 0\n", "OFF 4 2 0\n", "OFF4 2 0\n", "OFF\r\n4 2 0\r\n",
                                   "# made by hand\n\nOFF # here\n# counts\n4 2\n"}) {
    const Mesh mesh = decode_off(header + kBody, "m.off");
    EXPECT_EQ(mesh.vertices.shape(), (std::vector<int64_t>{4, 3})) << header;
    EXPECT_EQ(mesh.triangles.shape(), (std::vector<int64_t>{2, 3})) << header;
    EXPECT_EQ(mesh.vertices.data<double>()[7], 1);
    EXPECT_EQ(mesh.triangles.data<int32_t>()[4], 2);
  }
}

TEST(Off, CutsPolygonsIntoTrianglesAndLeavesColoursAside) {
  const Mesh mesh = decode_off(
      "OFF\n4 3 0\n0 0 0\n1e0 0 0\n+1 1.5 -0\n0 1 0\n4 0 1 2 3 255 0 0\n2 0 1\n3 1 2 3 0.5\n",
      "m.off");
  const std::vector<int32_t> found(mesh.triangles.data<int32_t>(),
                                   mesh.triangles.data<int32_t>() + mesh.triangles.numel());
  EXPECT_EQ(found, (std::vector<int32_t>{0, 1, 2, 0, 2, 3, 1, 2, 3}));
}

TEST(Off, NamesTheLineOfWhatIsWrong) {
  EXPECT_THAT(refused(""), HasSubstr("empty"));
  EXPECT_THAT(refused("ply\n"), HasSubstr("line 1: an OFF mesh begins with OFF, this with 'ply'"));
  EXPECT_THAT(refused("OFF\n"), HasSubstr("counts"));
  EXPECT_THAT(refused("OFF\n2 0 0\n0 0 0\n"), HasSubstr("the file ends after 1 of 2 vertices"));
  EXPECT_THAT(refused("OFF\n2000000000 2000000000 0\n0 0 0\n"), HasSubstr("ends after 1 of"));
  EXPECT_THAT(refused("OFF\n9999999999 1 0\n"), HasSubstr("is not between"));
  EXPECT_THAT(refused("OFF\n1 0 0\n0 x 0\n"), HasSubstr("line 3: expected a number, found 'x 0'"));
  EXPECT_THAT(refused("OFF\n1 0 0\n0 0\n"), HasSubstr("line 3: expected a number, found ''"));
  EXPECT_THAT(refused("OFF\n1 0 0\n0 nan 0\n"), HasSubstr("a coordinate is nan"));
  EXPECT_THAT(refused("OFF\n1 0 0\n0 1e300 0\n"), HasSubstr("beyond"));
  EXPECT_THAT(refused("OFF\n1 1 0\n0 0 0\n3 0 0 1\n"),
              HasSubstr("line 4: 1 is not between 0 and 0"));
  EXPECT_THAT(refused("OFF\n1 1 0\n0 0 0\n1000000000 0 0\n"), HasSubstr("expected a whole number"));
  EXPECT_THAT(refused("COFF\n1 0 0\n", ErrorCode::kUnsupported), HasSubstr("COFF"));
  EXPECT_THAT(refused("OFF BINARY\n", ErrorCode::kUnsupported), HasSubstr("binary"));
}

TEST(PointText, ReadsBlanksCommasAndNormals) {
  const Array cloud = decode_points("# x y z\n1 2 3\r\n\n4;5;6\n7, 8,9\n", "p.xyz");
  EXPECT_EQ(cloud.shape(), (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(cloud.data<double>()[8], 9);
  EXPECT_EQ(decode_points("1,2,3,0,0,1\n", "p.txt").size(1), 6);
}

TEST(PointText, NamesTheLineOfWhatIsWrong) {
  const auto wrong = [](const std::string& text) {
    return refusal(ErrorCode::kFormat, [&] { decode_points(text, "p.xyz"); });
  };
  EXPECT_THAT(wrong("# nothing\n"), HasSubstr("holds no point"));
  EXPECT_THAT(wrong("1 2\n"), HasSubstr("line 1: 2 values, a point has at least 3"));
  EXPECT_THAT(wrong("1 2 3\n1 2 3 4\n"), HasSubstr("line 2: 4 values, not 3"));
  EXPECT_THAT(wrong("1 2 3abc\n"), HasSubstr("expected a number, found '3abc'"));
}

TEST(PointCloudShared, ReadsModelNet) {
  PERCEIVER_SHARED_OR_SKIP(folder, "data/pointcloud/modelnet");
  int meshes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path());
    if (entry.path().extension() == ".off") {
      const Mesh mesh = read_off(entry.path());
      EXPECT_GT(mesh.triangles.size(0), 50);
      ++meshes;
    } else {
      EXPECT_EQ(read_points(entry.path()).shape(), (std::vector<int64_t>{2048, 6}));
    }
  }
  EXPECT_EQ(meshes, 7);
}

TEST(PointCloudShared, ReadsScansWithColours) {
  PERCEIVER_SHARED_OR_SKIP(folder, "data/pointcloud/scans");
  EXPECT_EQ(read_points(folder / "points_agisoft.xyz").size(1), 6);
  EXPECT_EQ(read_points(folder / "points_cloudcompare.xyz").size(1), 7);
}

}  // namespace
}  // namespace perceiver::io
