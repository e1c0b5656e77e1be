#include "perceiver/distributed/launch.h"

#include <map>

#include <gtest/gtest.h>

#include "perceiver/base/error.h"

namespace perceiver::distributed {
namespace {

std::optional<Launch> launch(const std::map<std::string, std::string>& variables) {
  return launch_from([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

void expect_refused(const std::map<std::string, std::string>& variables,
                    const std::vector<std::string>& says) {
  try {
    launch(variables);
    FAIL() << "accepted; wanted an error with " << says[0];
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    for (const std::string& text : says) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
}

TEST(Launch, NothingSetMeansAlone) {
  EXPECT_FALSE(launch({}).has_value());
  EXPECT_FALSE(launch({{"MASTER_ADDR", "node1"}, {"LOCAL_RANK", "0"}}).has_value());
}

TEST(Launch, ReadsTorchrun) {
  const auto found = launch({{"RANK", "3"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "2"},
                             {"MASTER_ADDR", "node1"},
                             {"MASTER_PORT", "29400"},
                             {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                             {"TORCHELASTIC_RESTART_COUNT", "2"}});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->rank, 3);
  EXPECT_EQ(found->size, 8);
  EXPECT_EQ(found->local_rank, 1);
  EXPECT_EQ(found->local_size, 2);
  EXPECT_EQ(found->address, "node1");
  EXPECT_EQ(found->port, 29400);
  EXPECT_TRUE(found->store_runs_elsewhere);
  EXPECT_EQ(found->attempt, 2);
}

TEST(Launch, ReadsBothKindsOfMpirun) {
  const std::map<std::string, std::string> master{{"MASTER_ADDR", "a"}, {"MASTER_PORT", "1234"}};
  std::map<std::string, std::string> open{{"OMPI_COMM_WORLD_RANK", "1"},
                                          {"OMPI_COMM_WORLD_SIZE", "2"},
                                          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  open.insert(master.begin(), master.end());
  EXPECT_EQ(launch(open)->rank, 1);
  EXPECT_EQ(launch(open)->local_size, 2);
  EXPECT_FALSE(launch(open)->store_runs_elsewhere);
  std::map<std::string, std::string> pmi{{"PMI_RANK", "2"}, {"PMI_SIZE", "4"}};
  pmi.insert(master.begin(), master.end());
  EXPECT_EQ(launch(pmi)->rank, 2);
  EXPECT_EQ(launch(pmi)->launcher, "mpirun");
}

TEST(Launch, SlurmsFirstNodeIsWhereTheProcessesMeet) {
  const std::map<std::string, std::string> task{
      {"SLURM_PROCID", "5"},  {"SLURM_NTASKS", "6"},    {"SLURM_LOCALID", "1"},
      {"SLURM_STEP_ID", "0"}, {"SLURM_JOB_ID", "4242"}, {"SLURM_STEP_NODELIST", "n[07-09,12],x"}};
  const auto found = launch(task);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->launcher, "Slurm");
  EXPECT_EQ(found->address, "n07");
  EXPECT_EQ(found->port, launch(task)->port);
  auto other = task;
  other["SLURM_STEP_NODELIST"] = "alpha,beta[1-2]";
  other["SLURM_JOB_ID"] = "4243";
  EXPECT_EQ(launch(other)->address, "alpha");
  EXPECT_NE(launch(other)->port, found->port);
  other["MASTER_ADDR"] = "10.0.0.1";
  other["MASTER_PORT"] = "99";
  EXPECT_EQ(launch(other)->address, "10.0.0.1");
  EXPECT_EQ(launch(other)->port, 99);
}

// Its shell has SLURM_PROCID=0 too, and would wait for tasks that nobody starts.
TEST(Launch, ASlurmBatchScriptItselfIsAlone) {
  EXPECT_FALSE(
      launch({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "7"}}).has_value());
}

TEST(Launch, TorchrunInsideSlurmIsTorchrun) {
  const auto found = launch({{"RANK", "0"},
                             {"WORLD_SIZE", "2"},
                             {"MASTER_ADDR", "a"},
                             {"MASTER_PORT", "5"},
                             {"SLURM_PROCID", "1"},
                             {"SLURM_NTASKS", "2"}});
  EXPECT_EQ(found->rank, 0);
  EXPECT_EQ(found->launcher, "torchrun");
}

TEST(Launch, AFileStandsInForAddressAndPort) {
  const auto found =
      launch({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"PERCEIVER_RENDEZVOUS", "file:/shared/x"}});
  EXPECT_EQ(found->file, "/shared/x");
  expect_refused({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"PERCEIVER_RENDEZVOUS", "/shared/x"}},
                 {"PERCEIVER_RENDEZVOUS", "'/shared/x'", "file:PATH"});
}

TEST(Launch, HalfSetVariablesAreNamedWithTheirValues) {
  expect_refused({{"RANK", "1"}}, {"RANK is 1", "WORLD_SIZE is not set"});
  expect_refused({{"WORLD_SIZE", "2"}}, {"WORLD_SIZE is 2", "RANK is not set"});
  expect_refused({{"OMPI_COMM_WORLD_SIZE", "2"}}, {"OMPI_COMM_WORLD_RANK is not set"});
  expect_refused({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}},
                 {"2 processes", "rank 1", "MASTER_ADDR is not set"});
  expect_refused({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}},
                 {"MASTER_PORT is not set"});
}

TEST(Launch, WrongValuesAreNamed) {
  expect_refused({{"RANK", "one"}, {"WORLD_SIZE", "2"}}, {"RANK is 'one'", "whole number"});
  expect_refused({{"RANK", "2"}, {"WORLD_SIZE", "2"}}, {"RANK is 2", "WORLD_SIZE is 2"});
  expect_refused({{"RANK", "0"}, {"WORLD_SIZE", "0"}}, {"WORLD_SIZE is '0'"});
  expect_refused(
      {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}},
      {"MASTER_PORT is '70000'", "65535"});
}

}  // namespace
}  // namespace perceiver::distributed
