#include "frames/tiff_memory.hpp"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace hffnet {

TiffMemory::~TiffMemory() {
  if (tiff_ != nullptr) TIFFClose(tiff_);
}

TIFF* TiffMemory::open() {
  // "m": not mapped, every read is checked against the size.
#if TIFFLIB_VERSION >= 20221213
  TIFFOpenOptions* options = TIFFOpenOptionsAlloc();
  TIFFOpenOptionsSetErrorHandlerExtR(options, keep, this);
  TIFFOpenOptionsSetWarningHandlerExtR(options, drop, nullptr);
  tiff_ = TIFFClientOpenExt("frame.tif", "rm", this, read, refuse_write, seek, close, size, nullptr, nullptr, options);
  TIFFOpenOptionsFree(options);
#else  // libtiff before 4.5 has handlers for the whole process only
  TIFFSetErrorHandler(nullptr);
  TIFFSetWarningHandler(nullptr);
  tiff_ = TIFFClientOpen("frame.tif", "rm", this, read, refuse_write, seek, close, size, nullptr, nullptr);
#endif
  return tiff_;
}

tmsize_t TiffMemory::read(thandle_t self, void* out, tmsize_t count) {
  auto* memory = static_cast<TiffMemory*>(self);
  const std::uint64_t size = memory->data_.size();
  const std::uint64_t left = memory->place_ < size ? size - memory->place_ : 0;
  const auto taken = static_cast<std::size_t>(std::min<std::uint64_t>(left, static_cast<std::uint64_t>(count)));
  if (taken > 0) std::memcpy(out, memory->data_.data() + memory->place_, taken);
  memory->place_ += taken;
  return static_cast<tmsize_t>(taken);
}

toff_t TiffMemory::seek(thandle_t self, toff_t offset, int whence) {
  auto* memory = static_cast<TiffMemory*>(self);
  const std::uint64_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? memory->place_ : memory->data_.size();
  return memory->place_ = from + offset;
}

toff_t TiffMemory::size(thandle_t self) {
  return static_cast<TiffMemory*>(self)->data_.size();
}

#if TIFFLIB_VERSION >= 20221213
int TiffMemory::keep(TIFF*, void* self, const char*, const char* format, va_list arguments) {
  auto* memory = static_cast<TiffMemory*>(self);
  std::array<char, 200> text{};
  if (memory->complaint_.empty() && std::vsnprintf(text.data(), text.size(), format, arguments) > 0) {
    memory->complaint_ = text.data();
  }
  return 1;
}
#endif

}  // namespace hffnet
