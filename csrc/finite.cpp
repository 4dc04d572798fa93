#include "finite.hpp"

#include <algorithm>

#include "simd.hpp"

REMI_SIMD bool all_finite(const float* x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, magnitude(x[i]));
    return largest < kInfiniteMagnitude;
}
