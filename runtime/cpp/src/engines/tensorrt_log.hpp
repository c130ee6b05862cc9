// TensorRT's lines: errors are kept for sentences, the rest is dropped.
#pragma once

#include <NvInfer.h>

#include <exception>
#include <mutex>
#include <string>
#include <vector>

namespace hffnet {

class TensorRtLog final : public nvinfer1::ILogger {
 public:
  // Called from the library's own threads too; must not throw.
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> held(mutex_);
      if (errors_.size() < kMostErrors) errors_.emplace_back(message);
    } catch (const std::exception&) {
      return;  // no memory for a line of text: the failure itself is told by the call that failed
    }
  }

  std::vector<std::string> errors() const {
    const std::lock_guard<std::mutex> held(mutex_);
    return errors_;
  }
  std::string last_error() const {
    const std::lock_guard<std::mutex> held(mutex_);
    return errors_.empty() ? "it gave no reason" : errors_.back();
  }

 private:
  static constexpr std::size_t kMostErrors = 100;

  mutable std::mutex mutex_;
  std::vector<std::string> errors_;
};

}  // namespace hffnet
