#include "perceiver/io/haiku_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/bytes_of.h"
#include "io/haiku_format.h"
#include "perceiver/io/safetensors.h"
#include "support/shared.h"

namespace perceiver::io {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using test::bytes_of;
using test::expect_same;
using test::little;
using test::refusal;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kVariants = "fixtures/deepmind/pickle_variants";

// --- every form in the fixtures ------------------------------------------------------------------

TEST(HaikuFixtures, EveryVariantReadsWhatItsWriterHeld) {
  PERCEIVER_SHARED_OR_SKIP(folder, kVariants);
  const ArrayMap params = read_safetensors(folder / "expected_params.safetensors");
  const ArrayMap state = read_safetensors(folder / "expected_state.safetensors");
  int read = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool plain = name.starts_with("dict_") || name.starts_with("flatmapping_") ||
                       name.starts_with("numpy2_") || name.starts_with("haiku_") ||
                       name.starts_with("frozendict_") || name.starts_with("jax_") ||
                       name.starts_with("dtype_int_") || name.starts_with("fortran_");
    if (!plain && !name.starts_with("params_")) {
      continue;
    }
    SCOPED_TRACE(name);
    const HaikuCheckpoint checkpoint = read_haiku_checkpoint(entry.path());
    expect_same(checkpoint.params, params);
    const bool has_state = name.starts_with("params_state");
    expect_same(checkpoint.state, has_state ? state : ArrayMap());
    ++read;
  }
  EXPECT_GE(read, 18);
}

TEST(HaikuFixtures, EveryDtypeKeepsItsValues) {
  PERCEIVER_SHARED_OR_SKIP(folder, kVariants);
  const ArrayMap expected = read_safetensors(folder / "expected_dtypes.safetensors");
  expect_same(read_haiku_checkpoint(folder / "dtypes_proto2.pickle").params, expected);
  expect_same(read_haiku_checkpoint(folder / "dtypes_proto4.pickle").params, expected);
}

TEST(HaikuFixtures, ScalarsLongNamesAndManyModules) {
  PERCEIVER_SHARED_OR_SKIP(folder, kVariants);
  const ArrayMap scalars = read_haiku_checkpoint(folder / "numpy_scalars_proto4.pickle").params;
  EXPECT_EQ(scalars.at("a/s32").data<float>()[0], 1.5F);
  EXPECT_EQ(scalars.at("a/s64").data<double>()[0], -2.25);
  EXPECT_EQ(scalars.at("a/i32").data<int32_t>()[0], 7);
  EXPECT_EQ(scalars.at("a/i32").dim(), 0);
  const ArrayMap longs = read_haiku_checkpoint(folder / "long_names_proto4.pickle").params;
  ASSERT_EQ(longs.size(), 1u);
  EXPECT_EQ(longs.begin()->first.size(), 302u);
  for (const char* file : {"many_modules_proto2.pickle", "many_modules_proto4.pickle"}) {
    const ArrayMap many = read_haiku_checkpoint(folder / file).params;
    ASSERT_EQ(many.size(), 300u);
    EXPECT_EQ(many.at("layer_299/w").to(DType::kF64).data<double>()[0], 299.0);
  }
}

TEST(HaikuFixtures, HostileFilesAreRefusedByName) {
  PERCEIVER_SHARED_OR_SKIP(folder, kVariants);
  const auto message = [&](const char* file, ErrorCode code) {
    return refusal(code, [&] { read_haiku_checkpoint(folder / file); });
  };
  EXPECT_THAT(message("refuse_forbidden_global_proto0.pickle", ErrorCode::kFormat),
              HasSubstr("refused to load \"__builtin__.print\""));
  EXPECT_THAT(message("refuse_forbidden_global_proto4.pickle", ErrorCode::kFormat),
              HasSubstr("refused to load"));
  EXPECT_THAT(message("refuse_object_dtype_proto4.pickle", ErrorCode::kUnsupported),
              AllOf(HasSubstr("\"a/w\""), HasSubstr("\"O8\"")));
  EXPECT_THAT(message("refuse_shape_data_mismatch.pickle", ErrorCode::kFormat), HasSubstr("shape"));
  EXPECT_THAT(message("refuse_truncated.pickle", ErrorCode::kFormat), HasSubstr("ends too early"));
}

TEST(HaikuFixtures, EveryModelFolderReadsWithTheReleasedNames) {
  PERCEIVER_SHARED_OR_SKIP(folder, "fixtures/deepmind");
  const std::map<std::string, std::string> one_name = {
      {"language", "embed/embeddings"},
      {"imagenet_learned", "image_preprocessor/~/conv2_d/w"},
      {"imagenet_fourier", "perceiver_encoder/~/cross_attention/attention/linear_3/b"},
      {"imagenet_conv", "image_preprocessor/~/conv2_d_downsample/~/conv/w"},
      {"optical_flow", "flow_decoder/~/basic_decoder/output/w"},
      {"multimodal", "multimodal_preprocessor/audio_padding/pos_embs"},
      {"perceiver_projection", "perceiver_encoder/~/self_attention/mlp/linear_1/b"}};
  for (const auto& [model, name] : one_name) {
    SCOPED_TRACE(model);
    const HaikuCheckpoint checkpoint = read_haiku_checkpoint(folder / model / "params.pickle");
    EXPECT_EQ(checkpoint.params.count(name), 1u) << name;
    EXPECT_EQ(checkpoint.state.empty(), model != "imagenet_conv");
  }
  const ArrayMap state = read_haiku_checkpoint(folder / "imagenet_conv" / "params.pickle").state;
  const std::string average = "image_preprocessor/~/conv2_d_downsample/~/batchnorm/~/mean_ema/";
  EXPECT_EQ(state.count(average + "average"), 1u);
  EXPECT_EQ(state.count(average + "hidden"), 1u);
  EXPECT_EQ(state.count(average + "counter"), 1u);
}

// --- pickles made here ---------------------------------------------------------------------------

HaikuCheckpoint parse(const std::string& pickle) {
  return read_haiku_checkpoint(bytes_of(pickle));
}

std::string refused(const std::string& pickle, ErrorCode code = ErrorCode::kFormat) {
  return refusal(code, [&] { parse(pickle); });
}

std::string text(const std::string& value) {
  return "X" + little(static_cast<uint32_t>(value.size())) + value;
}
std::string bytes(const std::string& value) {
  return "B" + little(static_cast<uint32_t>(value.size())) + value;
}
std::string integer(int32_t value) {
  return "J" + little(value);
}

// _frombuffer(data, dtype(code), shape, 'C')
std::string array(const std::string& code, const std::string& shape, const std::string& data) {
  return "cnumpy.core.numeric\n_frombuffer\n(" + bytes(data) + "cnumpy\ndtype\n(" + text(code) +
         "tR" + shape + text("C") + "tR";
}
const std::string kOne = array("f4", integer(1) + "\x85", little(1.5F));

// {"m": {"w": value}}
std::string tree(const std::string& value, const std::string& parameter = "w") {
  return "\x80\x04}" + text("m") + "}" + text(parameter) + value + "ss.";
}

TEST(Haiku, ReadsAPickleMadeHere) {
  EXPECT_EQ(parse(tree(kOne)).params.at("m/w").data<float>()[0], 1.5F);
}

TEST(Haiku, ReadsProtocolZero) {
  // As Python writes {'m': {'w': numpy.array([1.5], 'f4')}} with protocol 0, layout shortened.
  const std::string pickle =
      "(dp0\nVm\np1\n(dp2\nVw\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n"
      "(cnumpy\nndarray\np5\n(I0\ntp6\nc_codecs\nencode\n(Vb\nVlatin1\ntRtR"
      "(I1\n(L1L\ntcnumpy\ndtype\n(S'f4'\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
      "I00\nc_codecs\nencode\n(V\\u0000\\u0000\xC0?\nVlatin1\ntRtbss.";
  EXPECT_EQ(parse(pickle).params.at("m/w").data<float>()[0], 1.5F);
}

TEST(Haiku, ReadsStringsOfPythonTwo) {
  const std::string pickle =
      "\x80\x02}U\x01m}U\x01wcnumpy.core.multiarray\nscalar\n"
      "cnumpy\ndtype\nU\x02"
      "f4\x85RU\x04" +
      little(1.5F) + "\x86Rss.";
  EXPECT_EQ(parse(pickle).params.at("m/w").data<float>()[0], 1.5F);
}

TEST(Haiku, SharedArraysStayShared) {
  const std::string pickle =
      "\x80\x04}" + text("m") + "}" + text("a") + kOne + "\x94s" + text("b") + "h\0ss."s;
  const ArrayMap params = parse(pickle).params;
  EXPECT_EQ(params.at("m/a").bytes(), params.at("m/b").bytes());
}

TEST(Haiku, RefusesTheSameNameTwice) {
  const std::string entry = text("w") + kOne + "s";
  EXPECT_THAT(refused("\x80\x04}" + text("m") + "}" + entry + entry + "s."),
              HasSubstr("\"m/w\" appears twice"));
}

TEST(Haiku, ASplitFileHoldsNothingElse) {
  const std::string params = text("params") + "}" + text("m") + "}" + text("w") + kOne + "sss";
  EXPECT_EQ(parse("\x80\x04}" + params + ".").params.size(), 1u);
  EXPECT_THAT(refused("\x80\x04}" + params + text("opt_state") + "}s."),
              HasSubstr("\"opt_state\""));
  // A module that is merely called "params".
  const std::string module = "\x80\x04}" + text("params") + "}" + text("w") + kOne + "ss.";
  EXPECT_EQ(parse(module).params.count("params/w"), 1u);
}

TEST(Haiku, RefusesGlobalsOutsideTheList) {
  EXPECT_THAT(refused("cos\nsystem\n(S'true'\ntR."), HasSubstr("refused to load \"os.system\""));
  EXPECT_THAT(refused("\x80\x04" + text("posix") + text("system") + "\x93."),
              HasSubstr("\"posix.system\""));
  // Neither a part of an allowed name nor another class of an allowed module.
  refused("cnumpy\nload\n.");
  refused("cnumpy.core\nmultiarray._reconstruct\n.");
  refused("cbuiltins\neval\n.");
  refused("chaiku._src.data_structures\nFlatMapping.__init__\n.");
}

TEST(Haiku, RefusesOpcodesThatMakeObjectsOrReachOutside) {
  for (const std::string& pickle :
       {std::string("(ios\nsystem\n."), std::string("(cnumpy\ndtype\no."), std::string("P0\n."),
        std::string("I0\nQ."), std::string("\x82\x01."), std::string("\x80\x04\x8f."),
        std::string("\x80\x05\x97."), std::string("\x80\x04)}\x92."), std::string("\x80\x06.")}) {
    refused(pickle);
  }
}

TEST(Haiku, RefusesMalformedStacks) {
  for (const std::string& pickle : {std::string("."),
                                    std::string("}}."),
                                    std::string("(."),
                                    std::string("0."),
                                    std::string("t."),
                                    std::string("(s."),
                                    std::string("}(Ku."),
                                    std::string("](}u."),
                                    std::string("}Na."),
                                    std::string("h\x07."),
                                    std::string("j\xff\xff\xff\xff."),
                                    std::string("\x94."),
                                    std::string("NNR."),
                                    std::string("cnumpy\ndtype\nNR."),
                                    std::string("NNb."),
                                    std::string("I1x\n."),
                                    std::string("Vx"),
                                    std::string("S'x\n."),
                                    std::string("V\\u12\n."),
                                    std::string("X\xff\xff\xff\xff"),
                                    "\x8d" + std::string(8, '\xff'),
                                    "\x95" + std::string(8, '\xff') + ".",
                                    std::string("N."),
                                    std::string("].")}) {
    refused(pickle);
  }
}

TEST(Haiku, RefusesEveryTruncation) {
  const std::string good = tree(kOne);
  for (size_t size = 0; size < good.size(); ++size) {
    refused(good.substr(0, size));
  }
  EXPECT_THAT(refused(good + "x"), HasSubstr("the pickle ends at byte"));
}

TEST(Haiku, RefusesShapesThatTheDataDoesNotFill) {
  const auto shaped = [](const std::string& shape) {
    return tree(array("f4", shape, little(1.5F)));
  };
  refused(shaped(integer(2) + "\x85"));
  refused(shaped(integer(-1) + "\x85"));
  const std::string huge = "\x8a\x08" + little(int64_t{1} << 62);
  refused(shaped(huge + "\x85"));
  refused(shaped(huge + huge + "\x86"));
  refused(shaped("N\x85"));
  std::string deep = "(";
  for (int i = 0; i < 65; ++i) {
    deep += integer(1);
  }
  refused(shaped(deep + "t"));
  EXPECT_EQ(parse(shaped(integer(1) + integer(1) + "\x86")).params.at("m/w").dim(), 2);
}

TEST(Haiku, RefusesDtypesThatAreNotPlainNumbers) {
  for (const char* code : {"O8", "S4", "U1", "V4", "c8", "M8[s]", "f16", "x"}) {
    const std::string pickle = tree(array(code, integer(1) + "\x85", little(1.5F)));
    EXPECT_THAT(refused(pickle, ErrorCode::kUnsupported), HasSubstr("\"m/w\""));
  }
}

TEST(Haiku, RefusesArraysThatAreNeverFilled) {
  EXPECT_THAT(refused(tree("cnumpy.core.multiarray\n_reconstruct\n)R")), HasSubstr("never given"));
  refused(tree(integer(3)));
  refused(tree("}"));
  refused("\x80\x04}" + text("m") + kOne + "s.");
  refused("\x80\x04}" + integer(1) + "}s.");
}

TEST(Haiku, RefusesBombs) {
  std::string nested = "\x80\x04";
  for (int i = 0; i < 2'000'000; ++i) {
    nested += "]\x94";
  }
  EXPECT_THAT(refused(nested + "."), HasSubstr("too many"));
  std::string tuples = "\x80\x04)";
  tuples += std::string(1'500'000, '\x85') + ".";
  EXPECT_THAT(refused(tuples), HasSubstr("too many"));
  EXPECT_THAT(refused(std::string(9'000'000, 'N')), HasSubstr("too many"));
}

// One megabyte of text, decoded anew by each of a thousand arrays.
TEST(Haiku, RefusesTextDecodedOverAndOver) {
  const std::string megabyte(1 << 20, 'x');
  std::string pickle = "\x80\x04" + text(megabyte) + "\x94" + "0}" + text("m") + "}(";
  const std::string decoded = "c_codecs\nencode\nh\0"s + text("latin1") + "\x86R";
  const std::string dtype = "cnumpy\ndtype\n" + text("u1") + "\x85R";
  for (int i = 0; i < 1000; ++i) {
    pickle += text("w" + std::to_string(i)) + "cnumpy.core.numeric\n_frombuffer\n(" + decoded +
              dtype + integer(1 << 20) + text("C") + "tR";
  }
  EXPECT_THAT(refused(pickle + "us."), HasSubstr("far larger than its file"));
}

}  // namespace
}  // namespace perceiver::io
