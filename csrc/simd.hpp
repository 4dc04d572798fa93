#pragma once
// Functions marked REMI_SIMD are compiled for AVX-512, AVX2 and plain x86-64 and chosen at load
// time. Contraction is off (setup.py), so all three give the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__)
#define REMI_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define REMI_SIMD
#endif
