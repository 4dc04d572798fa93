#include "finite.hpp"

#include <cstring>

#include "simd.hpp"

REMI_SIMD bool all_finite(const float* x, int64_t n) {
    uint32_t largest = 0;  // magnitudes order as their bits do, with infinity and NaN on top
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7f800000u;
}
