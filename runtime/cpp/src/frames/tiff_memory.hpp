// A TIFF in memory, opened by libtiff with its messages kept instead of printed.
#pragma once

#include <tiffio.h>

#include <cstdarg>
#include <cstdint>
#include <string>

#include "frames/byte_order.hpp"

namespace hffnet {

// Owns the open TIFF; `data` must outlive it.
class TiffMemory {
 public:
  explicit TiffMemory(Bytes data) : data_(data) {}
  TiffMemory(const TiffMemory&) = delete;
  TiffMemory& operator=(const TiffMemory&) = delete;
  ~TiffMemory();

  // Page 0, or nullptr.
  TIFF* open();
  // libtiff's first error.
  std::string complaint() const { return complaint_.empty() ? "no reason given" : complaint_; }

 private:
  static tmsize_t read(thandle_t self, void* out, tmsize_t count);
  static tmsize_t refuse_write(thandle_t, void*, tmsize_t) { return 0; }
  static toff_t seek(thandle_t self, toff_t offset, int whence);
  static int close(thandle_t) { return 0; }
  static toff_t size(thandle_t self);
#if TIFFLIB_VERSION >= 20221213
  static int keep(TIFF*, void* self, const char*, const char* format, va_list arguments);
  static int drop(TIFF*, void*, const char*, const char*, va_list) {
    return 1;
  }
#endif

  Bytes data_;
  std::uint64_t place_ = 0;
  std::string complaint_;
  TIFF* tiff_ = nullptr;
};

}  // namespace hffnet
