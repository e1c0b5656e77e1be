#include "perceiver/distributed/launch.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <vector>

#include "perceiver/base/error.h"
#include "perceiver/base/str.h"

namespace perceiver::distributed {
namespace {

constexpr int kMostProcesses = 1 << 20;
constexpr int kMostPorts = 65535;
constexpr const char* kFilePrefix = "file:";

/// The variables one launcher sets.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;  ///< null: it sets none
};
constexpr std::array<Names, 4> kLaunchers{{
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr},
}};

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kArgument, message);
}

std::optional<int> parse(const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// A whole number from the environment. @throws Error(kArgument) naming variable and value
int number(const char* name, const std::string& text, int low, int high) {
  const std::optional<int> value = parse(text);
  if (!value || *value < low || *value > high) {
    fail(cat(name, " is '", printable(text, 40), "', must be a whole number from ", low, " to ",
             high));
  }
  return *value;
}

std::optional<int> optional_number(const Environment& environment, const char* name, int low,
                                   int high) {
  const auto text = name == nullptr ? std::nullopt : environment(name);
  return text ? std::optional(number(name, *text, low, high)) : std::nullopt;
}

/// A batch script's own shell has rank 0's variables too, but nobody joins it: only `srun` starts
/// tasks, and gives them a step.
bool is_batch_script(const Names& names, const Environment& environment) {
  return std::string_view(names.launcher) == "Slurm" && environment("SLURM_JOB_ID") &&
         !environment("SLURM_STEP_ID");
}

/// First host of Slurm's compressed list: "node[03-05,9],x" -> "node03".
std::string first_host(const std::string& list) {
  const size_t comma = list.find(',');
  const size_t bracket = list.find('[');
  if (bracket == std::string::npos || bracket > comma) {
    return list.substr(0, comma);
  }
  const size_t end = list.find_first_of(",-]", bracket);
  return list.substr(0, bracket) +
         list.substr(bracket + 1, end == std::string::npos ? end : end - bracket - 1);
}

/// A port that jobs on the same machines do not share.
int port_of_job(const std::string& job) {
  constexpr int kFirst = 20000, kCount = 10000;
  return kFirst + parse(job).value_or(0) % kCount;
}

void find_slurm_master(const Environment& environment, Launch& launch) {
  auto nodes = environment("SLURM_STEP_NODELIST");
  if (!nodes) {
    nodes = environment("SLURM_JOB_NODELIST");
  }
  if (launch.address.empty() && nodes) {
    launch.address = first_host(*nodes);
  }
  if (launch.port == 0) {
    if (const auto job = environment("SLURM_JOB_ID")) {
      launch.port = port_of_job(*job);
    }
  }
}

/// Where the processes meet. @throws Error(kArgument) when nothing says so
void find_master(const Environment& environment, Launch& launch) {
  if (const auto rendezvous = environment("PERCEIVER_RENDEZVOUS")) {
    if (!rendezvous->starts_with(kFilePrefix) ||
        rendezvous->size() == std::string_view(kFilePrefix).size()) {
      fail(cat("PERCEIVER_RENDEZVOUS is '", printable(*rendezvous), "', must be file:PATH"));
    }
    launch.file = rendezvous->substr(std::string_view(kFilePrefix).size());
    return;
  }
  launch.address = environment("MASTER_ADDR").value_or("");
  launch.port = optional_number(environment, "MASTER_PORT", 1, kMostPorts).value_or(0);
  if (launch.launcher == "Slurm") {
    find_slurm_master(environment, launch);
  }
  if (launch.address.empty() || launch.port == 0) {
    fail(cat(launch.launcher, " started ", launch.size, " processes and this is rank ", launch.rank,
             ", but ", launch.address.empty() ? "MASTER_ADDR" : "MASTER_PORT",
             " is not set: set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port "
             "there"));
  }
  launch.store_runs_elsewhere = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
}

}  // namespace

Environment process_environment() {
  return [](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

std::optional<Launch> launch_from(const Environment& environment) {
  for (const Names& names : kLaunchers) {
    const auto rank = environment(names.rank);
    const auto size = environment(names.size);
    if ((!rank && !size) || is_batch_script(names, environment)) {
      continue;
    }
    if (!rank || !size) {
      fail(cat(rank ? names.rank : names.size, " is ", printable(rank ? *rank : *size, 40), " but ",
               rank ? names.size : names.rank, " is not set: a process of several needs both (",
               names.launcher, " sets them), a process alone neither"));
    }
    Launch launch;
    launch.launcher = names.launcher;
    launch.size = number(names.size, *size, 1, kMostProcesses);
    launch.rank = number(names.rank, *rank, 0, kMostProcesses);
    if (launch.rank >= launch.size) {
      fail(cat(names.rank, " is ", launch.rank, " but ", names.size, " is ", launch.size,
               ": ranks count from 0"));
    }
    launch.local_rank =
        optional_number(environment, names.local_rank, 0, kMostProcesses).value_or(0);
    launch.local_size =
        optional_number(environment, names.local_size, 1, kMostProcesses).value_or(0);
    launch.attempt =
        optional_number(environment, "TORCHELASTIC_RESTART_COUNT", 0, kMostProcesses).value_or(0);
    if (launch.size > 1) {
      find_master(environment, launch);
    }
    return launch;
  }
  return std::nullopt;
}

std::unique_ptr<Group> group_from_environment(GroupOptions options) {
  const Environment environment = process_environment();
  const std::optional<Launch> launch = launch_from(environment);
  if (!launch || launch->size == 1) {
    return alone();
  }
  if (options.interface.empty()) {
    options.interface = environment("GLOO_SOCKET_IFNAME").value_or("");
  }
  return make_group(*launch, options);
}

}  // namespace perceiver::distributed
