#pragma once
// Drawing from any distribution in constant time: the alias method (Walker, 1974; Vose, 1991).
#include <cmath>
#include <cstdint>
#include <vector>

#include "philox.hpp"

constexpr int64_t kAlways = int64_t{1} << 32;

// Column i is kept with probability threshold[i] / 2^32, and is alias[i] otherwise.
inline void make_alias_table(const double* weights, int32_t n, int64_t* threshold, int32_t* alias) {
    double sum = 0;
    for (int32_t i = 0; i < n; ++i) sum += weights[i];
    std::vector<double> share(n);
    std::vector<int32_t> below, above;
    for (int32_t i = 0; i < n; ++i) {
        share[i] = weights[i] / sum * n;
        (share[i] < 1 ? below : above).push_back(i);
    }
    while (!below.empty() && !above.empty()) {
        const int32_t poor = below.back(), rich = above.back();
        below.pop_back();
        threshold[poor] = std::llround(share[poor] * static_cast<double>(kAlways));
        alias[poor] = rich;
        share[rich] -= 1 - share[poor];
        if (share[rich] < 1) {
            above.pop_back();
            below.push_back(rich);
        }
    }
    for (const auto& rest : {below, above})  // 1 but for rounding
        for (int32_t i : rest) {
            threshold[i] = kAlways;
            alias[i] = i;
        }
}

inline int32_t draw_alias(const PhiloxWords& words, int32_t n, const int64_t* threshold,
                          const int32_t* alias) {
    const auto column = static_cast<int32_t>(bounded(word64(words), n));
    return words[2] < threshold[column] ? column : alias[column];
}
