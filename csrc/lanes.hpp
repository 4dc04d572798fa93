#pragma once
// Arithmetic on 32 floats side by side ("lanes"), written once for every vector width.
//
// A file that includes this compiles its loops for several instruction sets (the templates below
// are inlined into functions with a target attribute) and picks one when it runs.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#define REMI_INLINE __attribute__((always_inline)) inline

constexpr int64_t kLanes = 32;

// Inner product with the same bits for every instruction set: 16 partial sums.
REMI_INLINE float dot(const float* a, const float* b, int64_t n) {
    constexpr int64_t kSums = 16;
    float sums[kSums] = {};
    int64_t j = 0;
    for (; j + kSums <= n; j += kSums)
        for (int64_t i = 0; i < kSums; ++i) sums[i] += a[j + i] * b[j + i];
    for (; j < n; ++j) sums[j % kSums] += a[j] * b[j];
    float total = 0.0f;
    for (float sum : sums) total += sum;
    return total;
}

// One row of lanes, aligned so that no load straddles two cache lines.
struct alignas(64) LaneRow {
    float lane[kLanes];
};
using LaneRows = std::vector<LaneRow>;

enum class SimdLevel { kPlain, kAvx2, kAvx512 };

// The best level of this machine, or the one REMI_FAST_SIMD names (plain, avx2, avx512) if that is
// less: for tests, and for the same bits on machines that differ.
inline SimdLevel simd_level() {
    SimdLevel best = SimdLevel::kPlain;
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = SimdLevel::kAvx2;
    if (best == SimdLevel::kAvx2 && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        best = SimdLevel::kAvx512;
#endif
    const char* wanted = std::getenv("REMI_FAST_SIMD");
    const std::string name = wanted ? wanted : "avx512";
    if (name == "plain") return SimdLevel::kPlain;
    if (name == "avx2") return std::min(best, SimdLevel::kAvx2);
    if (name == "avx512") return best;
    throw std::invalid_argument("REMI_FAST_SIMD: got \"" + name +
                                "\", expected plain, avx2 or avx512");
}

// WIDTH floats in one register, and their bits.
template <int WIDTH>
struct Vec {
    static constexpr int64_t width = WIDTH;
    static constexpr int64_t count = kLanes / WIDTH;  // registers a row of lanes takes
    typedef float Float __attribute__((vector_size(4 * WIDTH)));
    typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));

    static REMI_INLINE Float load(const float* from) {
        Float value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
    static REMI_INLINE void store(float* to, const Float& value) {
        std::memcpy(to, &value, sizeof value);
    }
    static REMI_INLINE Float all(float value) { return Float{} + value; }

    // exp(x) for x <= 0, within 1 unit in the last place; 0 below -87.3, NaN stays NaN.
    static REMI_INLINE Float exp(Float x) {
        const Float lowest = all(-87.3f);
        const Float y = x < lowest ? lowest : x;
        const Float magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds
        const Float shifted = y * 1.44269504f + magic;
        const Float n = shifted - magic;
        const Float r = (y - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
        Float p = all(1.0f / 5040);  // Taylor series on |r| <= ln(2) / 2
        p = p * r + 1.0f / 720;
        p = p * r + 1.0f / 120;
        p = p * r + 1.0f / 24;
        p = p * r + 1.0f / 6;
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        const Float power = (Float)((Bits)p + ((Bits)shifted << 23));
        return x < lowest ? Float{} : power;
    }
};

// c[i] = (ADD ? c[i] : 0) + sum over t of a[i * a_row + t * a_step] * b[t], for i < ROWS; b[t] and
// c[i] are lanes, b_step and c_row floats apart. The sum starts from 0 in either case.
template <class V, int ROWS, bool ADD>
REMI_INLINE void multiply_rows(const float* a, int64_t a_row, int64_t a_step, int64_t steps,
                               const float* b, int64_t b_step, float* c, int64_t c_row) {
    typename V::Float sums[ROWS][V::count] = {};
    for (int64_t t = 0; t < steps; ++t) {
        typename V::Float right[V::count];
        for (int64_t v = 0; v < V::count; ++v) right[v] = V::load(b + t * b_step + v * V::width);
        for (int64_t i = 0; i < ROWS; ++i) {
            const typename V::Float left = V::all(a[i * a_row + t * a_step]);
            for (int64_t v = 0; v < V::count; ++v) sums[i][v] += left * right[v];
        }
    }
    for (int64_t i = 0; i < ROWS; ++i)
        for (int64_t v = 0; v < V::count; ++v) {
            float* to = c + i * c_row + v * V::width;
            V::store(to, ADD ? V::load(to) + sums[i][v] : sums[i][v]);
        }
}

// The same for any number of rows, ROWS (a power of two) of them at a time.
template <class V, int ROWS, bool ADD>
REMI_INLINE void multiply(int64_t rows, const float* a, int64_t a_row, int64_t a_step,
                          int64_t steps, const float* b, int64_t b_step, float* c, int64_t c_row) {
    int64_t i = 0;
    for (; i + ROWS <= rows; i += ROWS)
        multiply_rows<V, ROWS, ADD>(a + i * a_row, a_row, a_step, steps, b, b_step, c + i * c_row,
                                    c_row);
    if constexpr (ROWS > 1)
        multiply<V, ROWS / 2, ADD>(rows - i, a + i * a_row, a_row, a_step, steps, b, b_step,
                                   c + i * c_row, c_row);
}
