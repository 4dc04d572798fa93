#include "adam.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simd.hpp"
#include "thread_pool.hpp"

namespace {

constexpr float kNegligibleMoment = 1e-30f;  // smaller ones become 0: denormals are slow
constexpr int64_t kCachedGaps = 1024;
constexpr double kSegmentGrowth = 0.2;  // keeps the series within 5e-8 at every step (tests)
constexpr double kVariation = 0.17;     // of beta2^k over a segment: all 159 at (0.9, 0.999)
constexpr double kNegligible = 6e-8;    // what adds nothing to a float
constexpr double kGone = 1e-38;         // what a float cannot hold
constexpr int64_t kRowsAhead = 6;       // random rows come from memory: ask for them in time
constexpr int64_t kLanes = 8;           // partial sums of the series, whatever the instruction set

REMI_SIMD void apply_segment(float* w, const float* m, const float* v, int64_t dim, float eps,
                             const AdamSegment& s) {
    const float r0 = s.r0, t0 = s.t0, t2 = s.t2, t3 = s.t3, t4 = s.t4;
    for (int64_t i = 0; i < dim; ++i) {
        const float y = std::sqrt(v[i]) * r0 + eps;
        const float h = 1.0f - eps / y;  // x r0 / y, also where that is inf / inf
        w[i] -= m[i] / y * (t0 + h * h * (t2 - h * (t3 - h * t4)));
    }
}

REMI_SIMD void decay_moments(float* m, float* v, int64_t dim, float m_factor, float v_factor) {
    for (int64_t i = 0; i < dim; ++i) {
        const float a = m[i] * m_factor, b = v[i] * v_factor;
        m[i] = std::fabs(a) < kNegligibleMoment ? 0.0f : a;
        v[i] = b < kNegligibleMoment ? 0.0f : b;
    }
}

REMI_SIMD void update_row(float* w, float* m, float* v, const float* g, int64_t dim,
                          const AdamHyper& hyper, float step_size, float inv_sqrt_correction) {
    const auto beta1 = static_cast<float>(hyper.beta1), beta2 = static_cast<float>(hyper.beta2);
    const auto rest1 =
        static_cast<float>(1.0 - hyper.beta1);  // not 1.0f - beta2: that loses digits
    const auto rest2 = static_cast<float>(1.0 - hyper.beta2);
    const float eps = hyper.eps;
    for (int64_t i = 0; i < dim; ++i) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = beta2 * v[i] + rest2 * g[i] * g[i];
        w[i] -= step_size * m[i] / (std::sqrt(v[i]) * inv_sqrt_correction + eps);
    }
}

// Missed steps after which a row hardly moves any more: step k moves it by a multiple of
// (beta1 / sqrt(beta2))^k, or where eps is most of the denominator, of beta1^k.
int64_t horizon(const AdamHyper& hyper) {
    if (hyper.beta1 == 0) return 1;
    const double log_beta1 = std::log(hyper.beta1);
    const double shrinks = log_beta1 - std::log(hyper.beta2) / 2;
    const double gone = std::log(kGone) / log_beta1;
    const double steps = shrinks < 0 ? std::min(gone, std::log(kNegligible) / shrinks) : gone;
    return static_cast<int64_t>(std::ceil(steps));
}

// Sums c, c r over k in [first, last); c and r are written out for the second pass.
REMI_SIMD void series_terms(const double* step_size, const double* correction, const double* beta1k,
                            const double* beta2k, int64_t n, double* c, double* r, double* sums) {
    double s0[kLanes] = {}, s1[kLanes] = {};
    for (int64_t k = 0; k < n; k += kLanes) {
        const int64_t lanes = std::min(kLanes, n - k);
        if (lanes == kLanes) {
            for (int64_t l = 0; l < kLanes; ++l) {
                c[k + l] = step_size[k + l] * beta1k[k + l];
                r[k + l] = correction[k + l] * beta2k[k + l];
                s0[l] += c[k + l];
                s1[l] += c[k + l] * r[k + l];
            }
        } else {
            for (int64_t l = 0; l < lanes; ++l) {
                c[k + l] = step_size[k + l] * beta1k[k + l];
                r[k + l] = correction[k + l] * beta2k[k + l];
                s0[l] += c[k + l];
                s1[l] += c[k + l] * r[k + l];
            }
        }
    }
    sums[0] = sums[1] = 0.0;
    for (int64_t l = 0; l < kLanes; ++l) {
        sums[0] += s0[l];
        sums[1] += s1[l];
    }
}

REMI_SIMD void series_moments(const double* c, const double* r, int64_t n, double inv_r0,
                              double* moments) {
    double s2[kLanes] = {}, s3[kLanes] = {}, s4[kLanes] = {};
    for (int64_t k = 0; k < n; k += kLanes) {
        const int64_t lanes = std::min(kLanes, n - k);
        for (int64_t l = 0; l < lanes; ++l) {
            const double d = r[k + l] * inv_r0 - 1.0, cdd = c[k + l] * d * d;
            s2[l] += cdd;
            s3[l] += cdd * d;
            s4[l] += cdd * d * d;
        }
    }
    moments[0] = moments[1] = moments[2] = 0.0;
    for (int64_t l = 0; l < kLanes; ++l) {
        moments[0] += s2[l];
        moments[1] += s3[l];
        moments[2] += s4[l];
    }
}

void prefetch_row(const float* row, int64_t dim) {
    for (int64_t i = 0; i < dim; i += 16) __builtin_prefetch(row + i, 1);
}

void prefetch_state(const AdamTable& table, int64_t row) {
    prefetch_row(table.weight + row * table.dim, table.dim);
    prefetch_row(table.exp_avg + row * table.dim, table.dim);
    prefetch_row(table.exp_avg_sq + row * table.dim, table.dim);
}

}  // namespace

AdamCatchUp::AdamCatchUp(const AdamHyper& hyper) : hyper_(hyper) {
    const double beta1 = hyper.beta1;
    horizon_ = horizon(hyper);
    settled_ = static_cast<int64_t>(std::ceil(30.0 / (1.0 - beta1)));
    longest_ = std::max<int64_t>(1, static_cast<int64_t>(-kVariation / std::log(hyper.beta2)));
    decay_.resize(2 * horizon_);
    for (int64_t k = 1; k <= horizon_; ++k) {
        decay_[k - 1] = std::pow(beta1, static_cast<double>(k));
        decay_[horizon_ + k - 1] = std::pow(hyper.beta2, 0.5 * static_cast<double>(k));
    }
    by_gap_.resize(kCachedGaps);
    made_for_.assign(kCachedGaps, -1);
}

// Missed steps tau+first+1 .. tau+last of a row stamped tau.
AdamSegment AdamCatchUp::segment(int64_t tau, int64_t first, int64_t last) const {
    const int64_t n = last - first;
    thread_local std::vector<double> c, r;
    c.resize(n);
    r.resize(n);
    double sums[2], moments[3];
    series_terms(hyper_.step_size + tau + first + 1, hyper_.inv_sqrt_correction + tau + first + 1,
                 decay_.data() + first, decay_.data() + horizon_ + first, n, c.data(), r.data(),
                 sums);
    if (sums[0] == 0.0) return {1.0f, 0.0f, 0.0f, 0.0f, 0.0f};  // learning rate 0 all along
    const double r0 = sums[1] / sums[0];
    series_moments(c.data(), r.data(), n, 1.0 / r0, moments);
    return {static_cast<float>(r0), static_cast<float>(sums[0]), static_cast<float>(moments[0]),
            static_cast<float>(moments[1]), static_cast<float>(moments[2])};
}

const std::vector<AdamSegment>& AdamCatchUp::segments(int64_t tau, int64_t t) {
    const int64_t gap = t - tau;
    const bool cached = gap < kCachedGaps;
    std::vector<AdamSegment>& made = cached ? by_gap_[gap] : uncached_;
    if (cached && made_for_[gap] == t) return made;
    if (cached) made_for_[gap] = t;
    made.clear();
    const int64_t end = std::min(gap, horizon_);
    for (int64_t first = 0; first < end;) {
        int64_t last = std::min(end, first + longest_);
        if (tau + first < settled_) {
            const auto length =
                static_cast<int64_t>(kSegmentGrowth * static_cast<double>(tau + first));
            last = std::min(last, first + std::max<int64_t>(1, length));
        }
        made.push_back(segment(tau, first, last));
        first = last;
    }
    return made;
}

void AdamCatchUp::row(float* weight, float* exp_avg, float* exp_avg_sq, const float* old_exp_avg,
                      const float* old_exp_avg_sq, int64_t dim, int64_t tau, int64_t t) {
    if (tau == 0 || tau >= t) return;  // never touched (moments are 0), or up to date
    for (const AdamSegment& s : segments(tau, t))
        apply_segment(weight, old_exp_avg, old_exp_avg_sq, dim, hyper_.eps, s);
    if (exp_avg == nullptr) return;
    const auto gap = static_cast<double>(t - tau);
    decay_moments(exp_avg, exp_avg_sq, dim, static_cast<float>(std::pow(hyper_.beta1, gap)),
                  static_cast<float>(std::pow(hyper_.beta2, gap)));
}

GatherPlan make_gather_plan(const int64_t* ids, int64_t n, int64_t num_rows) {
    // Least significant digit first: stable, so the occurrences of an id stay in order.
    constexpr int kBits = 11, kBuckets = 1 << kBits;
    std::vector<uint64_t> keys(n), other(n);
    for (int64_t i = 0; i < n; ++i)
        keys[i] = static_cast<uint64_t>(ids[i]) << 32 | static_cast<uint64_t>(i);
    for (int shift = 32; n > 0 && (num_rows - 1) >> (shift - 32) > 0; shift += kBits) {
        int64_t begin[kBuckets + 1] = {};
        for (uint64_t key : keys) ++begin[(key >> shift & (kBuckets - 1)) + 1];
        for (int b = 0; b < kBuckets; ++b) begin[b + 1] += begin[b];
        for (uint64_t key : keys) other[begin[key >> shift & (kBuckets - 1)]++] = key;
        keys.swap(other);
    }
    GatherPlan plan;
    plan.order.resize(n);
    plan.rows.reserve(n);
    plan.starts.reserve(n + 1);
    for (int64_t i = 0; i < n; ++i) {
        const auto id = static_cast<int32_t>(keys[i] >> 32);
        if (plan.rows.empty() || plan.rows.back() != id) {
            plan.rows.push_back(id);
            plan.starts.push_back(static_cast<int32_t>(i));
        }
        plan.order[i] = static_cast<int32_t>(keys[i] & 0xffffffffu);
    }
    plan.starts.push_back(static_cast<int32_t>(n));
    return plan;
}

void adam_catch_up_and_gather(const AdamTable& table, const AdamHyper& hyper,
                              const GatherPlan& plan, int64_t t, float* out) {
    const auto unique = static_cast<int64_t>(plan.rows.size());
    const int64_t dim = table.dim;
    ThreadPool::instance().parallel_for(unique, [&](int64_t begin, int64_t end) {
        AdamCatchUp catch_up(hyper);
        for (int64_t u = begin; u < end; ++u) {
            if (u + kRowsAhead < end) prefetch_state(table, plan.rows[u + kRowsAhead]);
            const int64_t row = plan.rows[u];
            float* weight = table.weight + row * dim;
            if (row != 0) {  // row 0 is padding: zero and frozen
                float* m = table.exp_avg + row * dim;
                float* v = table.exp_avg_sq + row * dim;
                catch_up.row(weight, m, v, m, v, dim, table.stamp[row], t);
                if (table.stamp[row] != 0) table.stamp[row] = static_cast<int32_t>(t);
            }
            for (int32_t o = plan.starts[u]; o < plan.starts[u + 1]; ++o)
                std::memcpy(out + plan.order[o] * dim, weight, dim * sizeof(float));
        }
    });
}

void adam_read(const AdamTable& table, const AdamHyper& hyper, const int64_t* ids, int64_t n,
               int64_t t, float* out) {
    const int64_t dim = table.dim;
    ThreadPool::instance().parallel_for(n, [&](int64_t begin, int64_t end) {
        AdamCatchUp catch_up(hyper);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t offset = ids[i] * dim;
            std::memcpy(out + i * dim, table.weight + offset, dim * sizeof(float));
            catch_up.row(out + i * dim, nullptr, nullptr, table.exp_avg + offset,
                         table.exp_avg_sq + offset, dim, table.stamp[ids[i]], t);
        }
    });
}

void adam_flush(const AdamTable& table, const AdamHyper& hyper, int64_t t) {
    ThreadPool::instance().parallel_for(table.num_rows, [&](int64_t begin, int64_t end) {
        AdamCatchUp catch_up(hyper);
        for (int64_t row = begin; row < end; ++row) {
            if (table.stamp[row] == 0) continue;
            const int64_t offset = row * table.dim;
            float* m = table.exp_avg + offset;
            float* v = table.exp_avg_sq + offset;
            catch_up.row(table.weight + offset, m, v, m, v, table.dim, table.stamp[row], t);
            table.stamp[row] = static_cast<int32_t>(t);
        }
    });
}

void adam_update(const AdamTable& table, const AdamHyper& hyper, const GatherPlan& plan,
                 const float* grads, int64_t t) {
    const auto unique = static_cast<int64_t>(plan.rows.size());
    const int64_t dim = table.dim;
    ThreadPool::instance().parallel_for(unique, [&](int64_t begin, int64_t end) {
        std::vector<float> sum(dim);
        for (int64_t u = begin; u < end; ++u) {
            if (u + kRowsAhead < end) prefetch_state(table, plan.rows[u + kRowsAhead]);
            const int64_t row = plan.rows[u];
            if (row == 0) continue;
            const float* g = grads + plan.order[plan.starts[u]] * dim;
            if (plan.starts[u + 1] - plan.starts[u] > 1) {  // in the order of occurrence
                std::copy(g, g + dim, sum.begin());
                for (int32_t o = plan.starts[u] + 1; o < plan.starts[u + 1]; ++o) {
                    const float* more = grads + plan.order[o] * dim;
                    for (int64_t i = 0; i < dim; ++i) sum[i] += more[i];
                }
                g = sum.data();
            }
            const int64_t offset = row * dim;
            update_row(table.weight + offset, table.exp_avg + offset, table.exp_avg_sq + offset, g,
                       dim, hyper, static_cast<float>(hyper.step_size[t]),
                       static_cast<float>(hyper.inv_sqrt_correction[t]));
            table.stamp[row] = static_cast<int32_t>(t);
        }
    });
}
