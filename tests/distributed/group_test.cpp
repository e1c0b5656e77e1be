#include "perceiver/distributed/group.h"

#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sin.h>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/distributed/launch.h"

namespace perceiver::distributed {
namespace {

/// Members of one group as threads of this process, over the loopback interface.
class Groups : public ::testing::Test {
 protected:
  Groups() {
    std::string name = (std::filesystem::temp_directory_path() / "perceiver_group_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  void SetUp() override {
    try {
      Launch one = launch(0, 1);
      one.file += "-of-one";
      make_group(one, options());
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
      GTEST_SKIP() << error.what();
    }
  }
  ~Groups() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  Launch launch(int rank, int size) const {
    Launch launch;
    launch.rank = rank;
    launch.size = size;
    launch.launcher = "a test";
    launch.file = (folder_ / "store").string();
    return launch;
  }

  GroupOptions options() const {
    GroupOptions options;
    options.timeout = std::chrono::seconds(20);
    options.patience = std::chrono::seconds(20);
    options.interface = "lo";
    return options;
  }

  /// Runs `body` as each rank; its Error is kept by rank.
  void run(int size, const std::function<void(Group&)>& body) {
    errors_.assign(static_cast<size_t>(size), "");
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          body(*make_group(launch(rank, size), options()));
        } catch (const Error& error) {
          errors_[static_cast<size_t>(rank)] = error.what();
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  void expect_no_errors() const {
    for (const std::string& error : errors_) {
      EXPECT_EQ(error, "");
    }
  }

  std::filesystem::path folder_;
  std::vector<std::string> errors_;
};

TEST_F(Groups, SumsAreTheSameBitsEverywhere) {
  constexpr int kSize = 3;
  std::vector<at::Tensor> results(kSize);
  run(kSize, [&](Group& group) {
    const at::Tensor values = at::sin(at::arange(10000, at::kFloat).mul(1e-3 * (1 + group.rank())));
    const auto pending = group.start_sum(values);
    std::vector<double> numbers{1.0 + group.rank(), 0.5};
    group.sum(numbers);
    EXPECT_EQ(numbers, (std::vector<double>{6, 1.5}));
    pending->wait();
    results[static_cast<size_t>(group.rank())] = values;
  });
  expect_no_errors();
  const at::Tensor points = at::arange(10000, at::kDouble).mul(1e-3);
  const at::Tensor wanted = at::sin(points).add(at::sin(points * 2)).add(at::sin(points * 3));
  EXPECT_LT(results[0].to(at::kDouble).sub(wanted).abs().max().item<double>(), 1e-5);
  EXPECT_TRUE(results[0].equal(results[1]));
  EXPECT_TRUE(results[0].equal(results[2]));
}

TEST_F(Groups, GathersByRankAndBroadcastsRankZero) {
  run(2, [&](Group& group) {
    const at::Tensor all = group.gather(at::full({2, 3}, group.rank(), at::kDouble));
    EXPECT_EQ(all.sizes(), at::IntArrayRef({2, 2, 3}));
    EXPECT_EQ(all.select(0, 1).min().item<double>(), 1);
    EXPECT_EQ(all.select(0, 0).max().item<double>(), 0);
    at::Tensor number = at::full({1}, 7 + group.rank(), at::kLong);
    group.broadcast({number});
    EXPECT_EQ(number.item<int64_t>(), 7);
    for (int i = 0; i < 3; ++i) {
      group.barrier("counting");
    }
    EXPECT_NE(group.description().find(cat("rank ", group.rank(), " of 2")), std::string::npos);
  });
  expect_no_errors();
}

// One member: NCCL wants a GPU for each, and a machine with one GPU is to test it too.
TEST_F(Groups, CarryTensorsOfAGpu) {
  if (!at::hasCUDA()) {
    GTEST_SKIP() << "no CUDA GPU can be used here";
  }
  run(1, [](Group& group) {
    const at::Tensor values = at::arange(5, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
    const at::Tensor wanted = values.clone();
    group.start_sum(values)->wait();
    EXPECT_TRUE(values.equal(wanted));
    group.broadcast({values});
    EXPECT_TRUE(group.gather(values).equal(wanted.unsqueeze(0)));
  });
  expect_no_errors();
}

TEST_F(Groups, WhyOneLeavesIsWhatTheOthersSay) {
  run(3, [&](Group& group) {
    if (group.rank() == 1) {
      group.leave("the disk is full");
      return;
    }
    std::vector<double> numbers{1};
    if (group.rank() == 0) {
      group.sum(numbers);
    } else {
      group.barrier("saving");
    }
  });
  EXPECT_EQ(errors_[1], "");
  for (const size_t rank : {0U, 2U}) {
    EXPECT_NE(errors_[rank].find(cat("rank ", rank, " of 3")), std::string::npos) << errors_[rank];
    EXPECT_NE(errors_[rank].find("rank 1 ("), std::string::npos) << errors_[rank];
    EXPECT_NE(errors_[rank].find("stopped: the disk is full"), std::string::npos) << errors_[rank];
  }
  EXPECT_NE(errors_[0].find("the sum of 8 bytes"), std::string::npos) << errors_[0];
  EXPECT_NE(errors_[2].find("after saving"), std::string::npos) << errors_[2];
}

TEST_F(Groups, WhoDoesNotComeIsNamed) {
  GroupOptions hurried = options();
  hurried.patience = std::chrono::milliseconds(300);
  try {
    make_group(launch(1, 4), hurried);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("missing: rank 0, 2, 3"), std::string::npos)
        << error.what();
  }
}

TEST_F(Groups, AnInterfaceThatIsNotThereIsNamed) {
  GroupOptions wrong = options();
  wrong.interface = "nowhere0";
  try {
    make_group(launch(0, 1), wrong);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    EXPECT_NE(std::string(error.what()).find("nowhere0"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace perceiver::distributed
