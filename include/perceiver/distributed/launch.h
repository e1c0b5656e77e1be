#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "perceiver/distributed/group.h"

// How a process learns that it is one of several: from the environment that torchrun, mpirun and
// Slurm set (docs/many-machines.md).

namespace perceiver::distributed {

/// One process's place among those started together.
struct Launch {
  int rank = 0;
  int size = 1;
  int local_rank = 0;  ///< among those on this machine
  int local_size = 0;  ///< how many those are; 0 = the launcher does not say
  std::string launcher = "nobody";
  /// Where the processes find each other: a store at rank 0's address ...
  std::string address;
  int port = 0;
  bool store_runs_elsewhere = false;  ///< torchrun's agent keeps it, not rank 0
  /// ... or a file that all of them see and that does not exist yet.
  std::string file;
  int attempt = 0;  ///< torchrun starts a failed group again; keeps attempts apart
};

/// A variable's value, or nothing when it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;
/// This process's.
Environment process_environment();

/// Reads, in this order: torchrun's RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, LOCAL_RANK,
/// LOCAL_WORLD_SIZE; mpirun's OMPI_COMM_WORLD_* or PMI_RANK, PMI_SIZE; Slurm's SLURM_PROCID,
/// SLURM_NTASKS, SLURM_LOCALID, whose first node is rank 0's unless MASTER_ADDR says otherwise.
/// PERCEIVER_RENDEZVOUS=file:PATH stands in for MASTER_ADDR and MASTER_PORT.
/// @return nothing when none is set: the process is alone
/// @throws Error(kArgument) naming the variables and their values when some are missing or wrong
std::optional<Launch> launch_from(const Environment& environment);

struct GroupOptions {
  /// How long an operation waits for another process before that is taken for dead.
  std::chrono::milliseconds timeout{30000};
  /// How long processes may take to appear when the group is made.
  std::chrono::milliseconds patience{120000};
  /// Network interface, "eth0" or "eth0,eth1"; empty = the one that leads to rank 0.
  std::string interface;
};

/// @throws Error(kIo) naming the ranks that did not come; Error(kArgument) for an interface that is
///         not there; Error(kUnsupported) in a build without Gloo
std::unique_ptr<Group> make_group(const Launch& launch, const GroupOptions& options = {});

/// The group this process was started in, or alone(). GLOO_SOCKET_IFNAME names the interface where
/// the options don't.
std::unique_ptr<Group> group_from_environment(GroupOptions options = {});

}  // namespace perceiver::distributed
