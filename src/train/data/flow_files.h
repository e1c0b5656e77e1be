#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/data/flow_pair.h"

namespace perceiver::train {

/// The files of one pair. Empty = the data set has no such file.
struct FlowFiles {
  std::filesystem::path first, second;  ///< pictures
  std::filesystem::path flow;           ///< .flo or KITTI PNG
  std::filesystem::path occlusions;     ///< picture: > 0 = occluded
  std::filesystem::path invalid;        ///< picture: > 0 = flow not valid
  /// KITTI PNG without the occluded pixels: those valid in `flow` only are occluded.
  std::filesystem::path unoccluded_flow;
};

/// Pairs in the layout of MPI-Sintel: <folder>/<pass>/<scene>/frame_0001.png, flow/<scene>/*.flo,
/// and where they are there occlusions/ and invalid/. `folder` may also be the one that holds
/// `training`. In order of pass, scene and frame.
/// @param passes  "clean", "final"
/// @param scenes  only these; empty = all   @param without  but not these
/// @throws Error(kIo) naming a folder or second frame that is missing, Error(kArgument) for a scene
///         the data set does not have
std::vector<FlowFiles> list_sintel(const std::filesystem::path& folder,
                                   const std::vector<std::string>& passes,
                                   const std::vector<std::string>& scenes,
                                   const std::vector<std::string>& without);

/// Pairs in the layout of FlyingChairs: <folder>[/data]/00001_img1.ppm, _img2.ppm, _flow.flo.
/// @param split_file  one number a pair, in order: 1 = training, 2 = validation; empty = all pairs
/// @param split       which number is taken
/// @throws Error(kIo), Error(kFormat) when the split file does not fit
std::vector<FlowFiles> list_flying_chairs(const std::filesystem::path& folder,
                                          const std::filesystem::path& split_file, int split);

/// Pairs in the layout of KITTI 2015 and 2012: <folder>/image_2 or colored_0, 000000_10.png and
/// _11.png, flow_occ/000000_10.png and, where it is there, flow_noc. `folder` may also be the one
/// that holds `training`. @throws Error(kIo)
std::vector<FlowFiles> list_kitti(const std::filesystem::path& folder);

/// Pairs that a file lists, paths relative to it. A text file has a line per pair: first frame,
/// tab, second frame, tab, flow, and optionally tab, occlusions, tab, invalid; lines with # are
/// comments. A .json file is a list of {"first", "second", "flow", "occlusions", "invalid"}.
/// @throws Error(kIo) naming the list, the line and a file that is missing, Error(kFormat)
std::vector<FlowFiles> read_flow_list(const std::filesystem::path& path);

/// Reads one pair. @throws Error(kIo), Error(kFormat), Error(kUnsupported) naming the file; two
/// files of different sizes are Error(kFormat) naming both and their sizes
FlowPair read_flow_pair(const FlowFiles& files);

/// Every picture (PNG, JPEG, PPM by name) of a folder, by name. @throws Error(kIo) when none
std::vector<std::filesystem::path> list_pictures(const std::filesystem::path& folder);

}  // namespace perceiver::train
