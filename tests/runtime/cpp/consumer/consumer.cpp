// The C++ interface as an integrator uses it: BUNDLE FRAME.
#include <hffnet/classifier.hpp>
#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto classifier = hffnet::Classifier::open(argv[1]);
  if (!classifier.ok()) {
    std::cerr << classifier.failure().sentence << '\n';
    return hffnet::exit_code(classifier.failure().error);
  }
  const auto prediction = classifier.value().classify(argv[2]);
  if (!prediction.ok()) {
    std::cerr << prediction.failure().sentence << '\n';
    return hffnet::exit_code(prediction.failure().error);
  }
  std::cout << json_from_prediction(prediction.value(), classifier.value()) << '\n';
}
