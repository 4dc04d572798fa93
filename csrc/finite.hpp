#pragma once
// Whether floats are finite: neither infinite nor NaN.
#include <cstdint>

bool all_finite(const float* x, int64_t n);
bool all_finite(const float* x, const float* y, int64_t n);  // n of each
