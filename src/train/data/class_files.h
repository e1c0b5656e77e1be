#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace perceiver::train {

/// One file of a data set and the name of its class.
struct ClassFile {
  std::filesystem::path path;
  std::string class_name;
};

/// <folder>/<class>/[<part>/]<file> with one of `endings` (".off"), sorted by path. Other files and
/// hidden ones are passed over.
/// @param part  a folder between class and files (ModelNet's "train" and "test"); empty = none
/// @throws Error(kIo) when the folder cannot be listed; Error(kFormat) when it holds no such file
std::vector<ClassFile> list_class_folders(const std::filesystem::path& folder,
                                          const std::string& part,
                                          const std::vector<std::string>& endings);

/// A list of `path,class` lines, paths from the list's own folder on; the first line may be that
/// heading. @throws Error(kIo), Error(kFormat) naming the line
std::vector<ClassFile> read_class_list(const std::filesystem::path& list);

}  // namespace perceiver::train
