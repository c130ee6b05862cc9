// One binary for every x86-64 processor that still uses AVX2 where there is one. The choice is made before the
// sanitizers' own start, so it is left out of their builds.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define HFFNET_EVERY_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define HFFNET_EVERY_PROCESSOR
#endif
