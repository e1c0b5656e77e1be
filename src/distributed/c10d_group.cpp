#include <algorithm>
#include <array>
#include <exception>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "distributed/nccl.h"
#include "distributed/roll_call.h"
#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/distributed/launch.h"

// LibTorch's c10d: Gloo, TCP between CPUs, and for tensors on GPUs NCCL where it was built in.

namespace perceiver::distributed {
namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using Work = c10::intrusive_ptr<c10d::Work>;
using Gloo = c10d::ProcessGroupGloo;

/// The telling part of what c10d and Gloo throw: no source places, no stack.
std::string reason(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  std::string text = of_torch != nullptr ? of_torch->what_without_backtrace() : error.what();
  text = text.substr(0, text.find('\n'));
  const size_t place = text.find("] ");
  if (text.starts_with('[') && place != std::string::npos && text.find(".cc:") < place) {
    text.erase(0, place + 2);
  }
  return printable(text, 200);
}

std::string size_text(const at::Tensor& tensor) {
  const auto bytes = static_cast<double>(tensor.nbytes());
  return bytes < 1e5 ? cat(tensor.nbytes(), " bytes")
                     : cat(static_cast<int64_t>(bytes / 1e4) / 100.0, " MB");
}

/// Numeric address of the interface that packets to `address` leave by; empty if there is none.
std::string route_to(const std::string& address, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return "";
  }
  std::string result;
  for (const addrinfo* to = found; to != nullptr && result.empty(); to = to->ai_next) {
    const int probe = ::socket(to->ai_family, to->ai_socktype, 0);
    if (probe < 0) {
      continue;
    }
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    auto* generic = reinterpret_cast<sockaddr*>(&own);  // NOLINT: what the interface asks for
    std::array<char, NI_MAXHOST> text{};
    // a datagram socket only looks up the route
    if (::connect(probe, to->ai_addr, to->ai_addrlen) == 0 &&
        ::getsockname(probe, generic, &length) == 0 &&
        ::getnameinfo(generic, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) == 0) {
      result = text.data();
    }
    ::close(probe);
  }
  ::freeaddrinfo(found);
  return result;
}

Store make_store(const Launch& launch, const GroupOptions& options) {
  if (!launch.file.empty()) {
    return c10::make_intrusive<c10d::FileStore>(launch.file, launch.size);
  }
  c10d::TCPStoreOptions store;
  store.port = static_cast<uint16_t>(launch.port);
  store.isServer = launch.rank == 0 && !launch.store_runs_elsewhere;
  store.waitWorkers = false;  // the roll call says who is missing
  store.timeout = options.patience;
  return c10::make_intrusive<c10d::TCPStore>(launch.address, store);
}

std::vector<std::string> split(const std::string& names) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    parts.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// What the processes talk through.
struct Wires {
  std::vector<std::shared_ptr<gloo::transport::Device>> devices;
  std::string name;
};

Wires make_wires(const Launch& launch, const GroupOptions& options) {
  Wires wires;
  if (!options.interface.empty()) {
    for (const std::string& name : split(options.interface)) {
      try {
        wires.devices.push_back(Gloo::createDeviceForInterface(name));
      } catch (const std::exception& error) {
        throw Error(ErrorCode::kArgument,
                    cat("the network interface ", printable(name), " of GLOO_SOCKET_IFNAME ",
                        printable(options.interface), " can't be used: ", reason(error)));
      }
    }
    wires.name = options.interface;
    return wires;
  }
  const std::string own = launch.file.empty() ? route_to(launch.address, launch.port) : "";
  wires.devices.push_back(own.empty() ? Gloo::createDefaultDevice()
                                      : Gloo::createDeviceForHostname(own));
  wires.name = own.empty() ? "the host's own address" : own;
  return wires;
}

/// NCCL's own watch ends the process; whoever waits here says more, and comes first.
constexpr int kNcclPatience = 4;

class C10dGroup : public Group {
 public:
  C10dGroup(const Launch& launch, const GroupOptions& options)
      : launch_(launch), timeout_(options.timeout) {
    const std::string prefix = cat("perceiver/", launch.attempt);
    const Store store = make_store(launch, options);
    roll_call_ = std::make_unique<RollCall>(
        c10::make_intrusive<c10d::PrefixStore>(prefix + "/roll", store->clone()), launch.rank,
        launch.size);
    roll_call_->arrive(options.patience);
    Wires wires = make_wires(launch, options);
    wires_ = wires.name;
    auto gloo = Gloo::Options::create(options.timeout);
    gloo->devices = std::move(wires.devices);
    gloo_ =
        c10::make_intrusive<Gloo>(c10::make_intrusive<c10d::PrefixStore>(prefix + "/gloo", store),
                                  launch.rank, launch.size, gloo);
    nccl_store_ = c10::make_intrusive<c10d::PrefixStore>(prefix + "/nccl", store);
  }
  C10dGroup(const C10dGroup&) = delete;
  C10dGroup& operator=(const C10dGroup&) = delete;
  ~C10dGroup() override { close_nccl(); }

  int rank() const override { return launch_.rank; }
  int size() const override { return launch_.size; }
  int local_rank() const override { return launch_.local_rank; }
  int local_size() const override { return launch_.local_size; }
  std::string description() const override {
    return cat("rank ", rank(), " of ", size(), " (", launch_.launcher, "), Gloo through ", wires_);
  }

  void sum(std::vector<double>& values) override {
    sum({at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble)});
  }

  void sum(const std::vector<at::Tensor>& tensors) override {
    std::vector<std::unique_ptr<Pending>> all;
    for (const at::Tensor& tensor : tensors) {
      all.push_back(start_sum(tensor));
    }
    for (const auto& one : all) {
      one->wait();
    }
  }

  std::unique_ptr<Pending> start_sum(const at::Tensor& tensor) override {
    std::vector<at::Tensor> list{tensor};
    return start(cat("the sum of ", size_text(tensor)), tensor,
                 [&](c10d::Backend& backend) { return backend.allreduce(list); });
  }

  at::Tensor gather(const at::Tensor& tensor) override {
    at::Tensor own = tensor.detach().contiguous().unsqueeze(0);
    std::vector<int64_t> shape = own.sizes().vec();
    shape[0] = size();
    at::Tensor all = at::empty(shape, own.options());
    start(cat("the gathering of ", size_text(own)), own, [&](c10d::Backend& backend) {
      return backend._allgather_base(all, own);
    })->wait();
    return all;
  }

  void broadcast(const std::vector<at::Tensor>& tensors) override {
    std::vector<std::unique_ptr<Pending>> all;
    for (const at::Tensor& tensor : tensors) {
      std::vector<at::Tensor> list{tensor};
      all.push_back(start(cat("the broadcast of ", size_text(tensor)), tensor,
                          [&](c10d::Backend& backend) { return backend.broadcast(list); }));
    }
    for (const auto& one : all) {
      one->wait();
    }
  }

  void barrier(const std::string& what) override { roll_call_->meet(what, timeout_); }

  void leave(const std::string& problem) noexcept override {
    failed_ = true;
    try {
      roll_call_->leave(printable(problem, 400));
    } catch (...) {  // NOLINT(bugprone-empty-catch): the store is gone, so nobody can be told
    }
  }

 private:
  class Running : public Pending {
   public:
    Running(C10dGroup& group, Work work, std::chrono::milliseconds timeout, std::string what)
        : group_(group), work_(std::move(work)), timeout_(timeout), what_(std::move(what)) {}
    void wait() override {
      try {
        work_->wait(timeout_);
      } catch (const std::exception& error) {
        group_.fail(what_, error);
      }
    }

   private:
    C10dGroup& group_;
    Work work_;
    std::chrono::milliseconds timeout_;
    std::string what_;
  };

  /// Made with the first tensor on a GPU: training on CPUs knows nothing of NCCL.
  c10d::Backend& backend_of(const at::Tensor& tensor) {
    if (!tensor.is_cuda()) {
      return *gloo_;
    }
    if (!tried_nccl_) {
      nccl_ = make_nccl(nccl_store_, rank(), size(), kNcclPatience * timeout_);
      tried_nccl_ = true;
    }
    return nccl_ ? *nccl_ : *gloo_;
  }

  /// A process that ends while others still use its communicator must not wait for them.
  void close_nccl() noexcept {
    try {
      if (nccl_ && failed_) {
        nccl_->abort();
      } else if (nccl_) {
        nccl_->shutdown();
      }
    } catch (...) {  // NOLINT(bugprone-empty-catch): nobody is left to be told
    }
  }

  /// @param call  of the backend that carries `tensor`
  template <typename Call>
  std::unique_ptr<Pending> start(const std::string& what, const at::Tensor& tensor,
                                 const Call& call) {
    try {
      c10d::Backend& backend = backend_of(tensor);
      // Gloo counts for itself; NCCL's work holds the host until it is done only with a timeout
      const auto timeout = &backend == nccl_.get() ? timeout_ : kNoTimeout;
      return std::make_unique<Running>(*this, call(backend), timeout, what);
    } catch (const std::exception& error) {
      fail(what, error);
    }
  }

  [[noreturn]] void fail(const std::string& what, const std::exception& error) {
    failed_ = true;
    const std::string gone = roll_call_->missing();
    throw Error(ErrorCode::kIo, cat("rank ", rank(), " of ", size(), ": ", what, " failed: ",
                                    gone.empty() ? "all processes are alive, one is slower than "
                                                   "the timeout (--timeout)"
                                                 : gone,
                                    " [", reason(error), "]"));
  }

  Launch launch_;
  std::chrono::milliseconds timeout_;
  std::string wires_;
  Store nccl_store_;
  std::unique_ptr<RollCall> roll_call_;
  c10::intrusive_ptr<c10d::Backend> nccl_;
  bool tried_nccl_ = false, failed_ = false;
  c10::intrusive_ptr<Gloo> gloo_;  ///< last: its threads end first
};

}  // namespace

std::unique_ptr<Group> make_group(const Launch& launch, const GroupOptions& options) {
  try {
    return std::make_unique<C10dGroup>(launch, options);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    const std::string place =
        launch.file.empty() ? cat(launch.address, ":", launch.port) : launch.file;
    throw Error(ErrorCode::kIo,
                cat("rank ", launch.rank, " of ", launch.size, " could not join the others at ",
                    printable(place), ": ", reason(error)));
  }
}

}  // namespace perceiver::distributed
