#include "self_attentive.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bindings.hpp"
#include "simd.hpp"
#include "thread_pool.hpp"

namespace {

constexpr int64_t kLanes = 16;  // partial sums, whatever the instruction set

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

REMI_SIMD void tanh_row(float* row, int64_t width) {
    for (int64_t j = 0; j < width; ++j) row[j] = tanh_one(row[j]);
}

REMI_SIMD float dot(const float* a, const float* b, int64_t width) {
    float sums[kLanes] = {};
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes)
        for (int64_t l = 0; l < kLanes; ++l) sums[l] += a[j + l] * b[j + l];
    for (; j < width; ++j) sums[j % kLanes] += a[j] * b[j];
    float total = 0.0f;
    for (float sum : sums) total += sum;
    return total;
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
        for (int64_t row = begin; row < end; ++row) {
            tanh_row(hidden + row * width, width);
            for (int64_t k = 0; k < num_interests; ++k)
                logits[row * num_interests + k] =
                    dot(hidden + row * width, projection + k * width, width);
        }
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

void register_self_attentive(pybind11::module_& m) {
    namespace py = pybind11;
    const auto check = [](const py::array& array, int64_t rows, int64_t columns, const char* name) {
        require(array.ndim() == 2 && array.shape(0) == rows && array.shape(1) == columns,
                std::string(name) + ": expected shape (" + std::to_string(rows) + ", " +
                    std::to_string(columns) + ")");
    };
    m.def(
        "tanh_project",
        [check](Array<float> hidden, const Array<float>& projection, Array<float> logits) {
            require(hidden.ndim() == 2 && projection.ndim() == 2, "expected two dimensions");
            const int64_t rows = hidden.shape(0), width = hidden.shape(1), k = projection.shape(0);
            check(projection, k, width, "projection");
            check(logits, rows, k, "logits");
            float *h = hidden.mutable_data(), *out = logits.mutable_data();
            py::gil_scoped_release release;
            tanh_project(h, projection.data(), out, rows, width, k);
        },
        py::arg("hidden").noconvert(), py::arg("projection").noconvert(),
        py::arg("logits").noconvert());
    m.def(
        "tanh_project_backward",
        [check](const Array<float>& hidden, const Array<float>& projection,
                const Array<float>& grad_logits, Array<float> grad_hidden) {
            require(hidden.ndim() == 2 && projection.ndim() == 2, "expected two dimensions");
            const int64_t rows = hidden.shape(0), width = hidden.shape(1), k = projection.shape(0);
            require(k > 0, "projection: expected at least one row");
            check(projection, k, width, "projection");
            check(grad_logits, rows, k, "grad_logits");
            check(grad_hidden, rows, width, "grad_hidden");
            float* out = grad_hidden.mutable_data();
            py::gil_scoped_release release;
            tanh_project_backward(hidden.data(), projection.data(), grad_logits.data(), out, rows,
                                  width, k);
        },
        py::arg("hidden").noconvert(), py::arg("projection").noconvert(),
        py::arg("grad_logits").noconvert(), py::arg("grad_hidden").noconvert());
}
