// Completes a text in which [MASK] stands for one unknown byte: fill_mask MODEL "Text with [MASK]"
#include <iostream>

#include <perceiver/perceiver.h>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: fill_mask MODEL TEXT\n";
    return 2;
  }
  try {
    perceiver::tasks::Model model = perceiver::tasks::open_model(argv[1]);
    const auto answer = perceiver::tasks::fill_mask(model.bundle, *model.engine, argv[2]);
    std::cout << answer.filled << "\n";
  } catch (const perceiver::Error& error) {
    std::cerr << "fill_mask: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
