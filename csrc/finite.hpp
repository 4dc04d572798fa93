#pragma once
// Whether floats are finite: neither infinite nor NaN.
#include <algorithm>
#include <cstdint>
#include <cstring>

// The bits of |x|: they order as the magnitudes do, with infinity and NaN on top.
inline uint32_t magnitude(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

constexpr uint32_t kInfiniteMagnitude = 0x7f800000u;

bool all_finite(const float* x, int64_t n);

// Copies n floats, and looks at them on the way, which takes no time of its own: whether all are
// finite.
bool copy_finite(float* to, const float* from, int64_t n);

// Of NumPy arrays. One thread: what a step looks at is read in the time it takes to wake another.
template <class Arrays>
bool are_finite(const Arrays& arrays) {
    return std::all_of(arrays.begin(), arrays.end(),
                       [](const auto& x) { return all_finite(x.data(), x.size()); });
}
