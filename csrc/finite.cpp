#include "finite.hpp"

#include <algorithm>

#include "simd.hpp"

namespace {

constexpr int64_t kBlock = 4096;

}  // namespace

// From the end: of what was just written, that is still in the cache.
REMI_SIMD bool all_finite(const float* x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t end = n; end > 0; end -= kBlock)
        for (int64_t i = std::max<int64_t>(end - kBlock, 0); i < end; ++i)
            largest = std::max(largest, magnitude(x[i]));
    return largest < kInfiniteMagnitude;
}

REMI_SIMD bool copy_finite(float* __restrict to, const float* __restrict from, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        largest = std::max(largest, magnitude(from[i]));
        to[i] = from[i];
    }
    return largest < kInfiniteMagnitude;
}
