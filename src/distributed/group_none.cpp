#include "perceiver/base/error.h"
#include "perceiver/base/str.h"
#include "perceiver/distributed/launch.h"

// Stands in for c10d_group.cpp in a build without Gloo's headers.

namespace perceiver::distributed {

std::unique_ptr<Group> make_group(const Launch& launch, const GroupOptions& /*options*/) {
  throw Error(ErrorCode::kUnsupported,
              cat(launch.launcher, " started ", launch.size,
                  " processes, but this program was built without Gloo's headers (Debian: "
                  "libgloo-dev) and can't train on more than one"));
}

}  // namespace perceiver::distributed
