#include "sha256.hpp"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include <array>
#include <new>

namespace hffnet {
namespace {

// OpenSSL fails here for want of memory only.
void require(bool is_good) {
  if (!is_good) throw std::bad_alloc();
}

}  // namespace

struct Sha256::Held {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

Sha256::Sha256() : held_(std::make_unique<Held>()) {
  require(held_->context != nullptr && EVP_DigestInit_ex(held_->context.get(), EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::uint8_t> bytes) {
  require(EVP_DigestUpdate(held_->context.get(), bytes.data(), bytes.size()) == 1);
}

std::string Sha256::hex() {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  require(EVP_DigestFinal_ex(held_->context.get(), digest.data(), nullptr) == 1);
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4U];
    text += "0123456789abcdef"[byte & 15U];
  }
  return text;
}

std::string sha256_of(std::span<const std::uint8_t> bytes) {
  return sha256_of_parts(std::array{bytes});
}

std::string sha256_of_parts(std::span<const std::span<const std::uint8_t>> parts) {
  Sha256 hash;
  for (const auto& part : parts) hash.add(part);
  return hash.hex();
}

}  // namespace hffnet
