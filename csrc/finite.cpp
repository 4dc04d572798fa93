#include "finite.hpp"

#include <cstring>

#include "simd.hpp"

namespace {

constexpr uint32_t kInfinity = 0x7f800000u;  // magnitudes order as their bits do, NaN on top

inline uint32_t magnitude(const float* x) {
    uint32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    return bits & 0x7fffffffu;
}

inline uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

}  // namespace

REMI_SIMD bool all_finite(const float* x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = larger(largest, magnitude(x + i));
    return largest < kInfinity;
}

REMI_SIMD bool all_finite(const float* x, const float* y, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i)
        largest = larger(largest, larger(magnitude(x + i), magnitude(y + i)));
    return largest < kInfinity;
}
