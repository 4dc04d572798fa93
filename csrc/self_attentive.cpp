#include "self_attentive.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lanes.hpp"
#include "simd.hpp"
#include "thread_pool.hpp"

namespace {

// tanh(x) = e / (e + 2), e = expm1(2|x|) = 2^n expm1(r) + 2^n - 1 with 2|x| = n ln 2 + r: within
// 3 units in the last place everywhere (tests), and the compiler can vectorise it.
inline float tanh_one(float x) {
    const float y = std::min(2.0f * std::fabs(x), 20.0f);  // tanh(10) is 1 in float
    const float magic = 12582912.0f;                       // 1.5 * 2^23: adding it rounds
    const float shifted = y * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (y - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
    uint32_t exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent = (exponent << 23) + 0x3f800000;
    float power;
    std::memcpy(&power, &exponent, sizeof power);
    // Taylor series of expm1 on |r| <= ln(2) / 2
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r;
    const float e = power * p + (power - 1.0f);
    return std::copysign(e / (e + 2.0f), x);
}

REMI_SIMD void forward_row(float* hidden, const float* projection, float* logits, int64_t width,
                           int64_t num_interests) {
    for (int64_t j = 0; j < width; ++j) hidden[j] = tanh_one(hidden[j]);
    for (int64_t k = 0; k < num_interests; ++k)
        logits[k] = dot(hidden, projection + k * width, width);
}

REMI_SIMD void backward_row(const float* hidden, const float* projection, const float* grad_logits,
                            float* grad_hidden, int64_t width, int64_t num_interests) {
    for (int64_t j = 0; j < width; ++j) grad_hidden[j] = grad_logits[0] * projection[j];
    for (int64_t k = 1; k < num_interests; ++k)
        for (int64_t j = 0; j < width; ++j)
            grad_hidden[j] += grad_logits[k] * projection[k * width + j];
    for (int64_t j = 0; j < width; ++j) grad_hidden[j] *= 1.0f - hidden[j] * hidden[j];
}

}  // namespace

void tanh_project(float* hidden, const float* projection, float* logits, int64_t rows,
                  int64_t width, int64_t num_interests) {
    ThreadPool::instance().parallel_for(rows, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            forward_row(hidden + row * width, projection, logits + row * num_interests, width,
                        num_interests);
    });
}

void tanh_project_backward(const float* hidden, const float* projection, const float* grad_logits,
                           float* grad_hidden, int64_t rows, int64_t width, int64_t num_interests) {
    ThreadPool::instance().parallel_for(rows, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
            backward_row(hidden + row * width, projection, grad_logits + row * num_interests,
                         grad_hidden + row * width, width, num_interests);
    });
}
