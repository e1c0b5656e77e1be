// Tensors in, tensors out, for any model folder: forward MODEL IN.safetensors OUT.safetensors
#include <iostream>

#include <perceiver/perceiver.h>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: forward MODEL IN.safetensors OUT.safetensors\n";
    return 2;
  }
  try {
    perceiver::tasks::Model model = perceiver::tasks::open_model(argv[1]);
    const perceiver::ArrayMap inputs = perceiver::io::read_safetensors(argv[2]);
    const perceiver::ArrayMap answers = perceiver::tasks::forward(*model.engine, inputs);
    perceiver::io::write_safetensors(argv[3], answers);
  } catch (const perceiver::Error& error) {
    std::cerr << "forward: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
