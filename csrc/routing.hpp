#pragma once
// The routing regularizer of one user (REMI, section 4.2): rr = sum_k var_k^2 with
// var_k = (1 / D) sum_l (A_kl - mean_l A_k)^2, for routing weights A (K, L).
#include <cstdint>

struct Spread {
    double mean, squares;  // of L weights: mean, and sum of the squared distances from it
};

inline Spread spread_of(const float* weights, int64_t length) {
    double total = 0, squares = 0;
    for (int64_t l = 0; l < length; ++l) total += weights[l];
    const double mean = total / static_cast<double>(length);
    for (int64_t l = 0; l < length; ++l) squares += (weights[l] - mean) * (weights[l] - mean);
    return {mean, squares};
}

inline float routing_regularizer(const float* routing, int64_t interests, int64_t length,
                                 int64_t dim) {
    double total = 0;
    for (int64_t k = 0; k < interests; ++k) {
        const double variance = spread_of(routing + k * length, length).squares / dim;
        total += variance * variance;
    }
    return static_cast<float>(total);
}

// Gradients (K, L) of gain * rr.
inline void routing_gradients(const float* routing, int64_t interests, int64_t length, int64_t dim,
                              float gain, float* gradients) {
    for (int64_t k = 0; k < interests; ++k) {
        const Spread found = spread_of(routing + k * length, length);
        const double strength = 4 * gain * (found.squares / dim) / dim;
        for (int64_t l = k * length; l < (k + 1) * length; ++l)
            gradients[l] = static_cast<float>(strength * (routing[l] - found.mean));
    }
}
