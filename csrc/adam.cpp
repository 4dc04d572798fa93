#include "adam.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "finite.hpp"
#include "simd.hpp"
#include "thread_pool.hpp"

namespace {

constexpr float kNegligibleMoment = 1e-30f;  // smaller ones become 0: denormals are slow
constexpr int64_t kCachedGaps = 1024;
constexpr int64_t kRowsAhead = 8;           // random rows come from memory: ask for them in time
constexpr int64_t kRowsTouched = 32;        // at a time, of a large table
constexpr int64_t kLargeTable = 512 << 20;  // bytes

REMI_SIMD void apply_segment(float* w, const float* m, const float* v, int64_t dim, float eps,
                             const AdamSegment& s) {
    const float r0 = s.r0, t0 = s.t0, t2 = s.t2, t3 = s.t3, t4 = s.t4;
    for (int64_t i = 0; i < dim; ++i) {
        const float y = std::sqrt(v[i]) * r0 + eps;
        const float h = 1.0f - eps / y;  // x r0 / y, also where that is inf / inf
        w[i] -= m[i] / y * (t0 + h * h * (t2 - h * (t3 - h * t4)));
    }
}

// The moments after some missed steps; `largest` keeps the magnitudes seen so far, by column.
template <bool kLook>
[[gnu::always_inline]] inline void decay_row(float* __restrict m, float* __restrict v,
                                             uint32_t* __restrict largest, int64_t dim,
                                             AdamDecay decay) {
    for (int64_t i = 0; i < dim; ++i) {
        const float a = m[i] * decay.exp_avg, b = v[i] * decay.exp_avg_sq;
        if (kLook) largest[i] = std::max(largest[i], std::max(magnitude(a), magnitude(b)));
        m[i] = std::fabs(a) < kNegligibleMoment ? 0.0f : a;
        v[i] = std::fabs(b) < kNegligibleMoment ? 0.0f : b;  // -infinity stays
    }
}

REMI_SIMD void decay_moments(float* m, float* v, int64_t dim, AdamDecay decay) {
    decay_row<false>(m, v, nullptr, dim, decay);
}

REMI_SIMD void decay_and_look(float* m, float* v, uint32_t* largest, int64_t dim, AdamDecay decay) {
    decay_row<true>(m, v, largest, dim, decay);
}

// Raises the largest magnitudes of the columns of rows to those of one more; asking at the end
// whether all are finite costs less than asking at each row.
REMI_SIMD void raise_magnitudes(uint32_t* __restrict largest, const float* __restrict x,
                                int64_t dim) {
    for (int64_t i = 0; i < dim; ++i) largest[i] = std::max(largest[i], magnitude(x[i]));
}

bool is_finite(const std::vector<uint32_t>& largest) {
    return std::all_of(largest.begin(), largest.end(),
                       [](uint32_t bits) { return bits < kInfiniteMagnitude; });
}

// Always inline: to GCC a function that only prefetches has no effect, and a call of it is left
// out.
[[gnu::always_inline]] inline void prefetch_row(const float* row, int64_t dim) {
    for (int64_t i = 0; i < dim; i += 16) __builtin_prefetch(row + i, 1);
}

[[gnu::always_inline]] inline void prefetch_state(const AdamTable& table, int64_t row) {
    prefetch_row(table.weight + row * table.stride, table.dim);
    prefetch_row(table.exp_avg + row * table.stride, table.dim);
    prefetch_row(table.exp_avg_sq + row * table.stride, table.dim);
    __builtin_prefetch(table.stamp + row, 1);
}

// Whether most rows are on pages that the TLB does not know.
bool is_large(const AdamTable& table) {
    return 3 * table.num_rows * table.dim * static_cast<int64_t>(sizeof(float)) > kLargeTable;
}

void touch(const float* x) { (void)*static_cast<const volatile float*>(x); }

// Loads a number of each of these rows. Prefetches of pages that the TLB does not know wait for one
// another; loads that nothing waits for do not.
void touch_rows(const AdamTable& table, const GatherPlan& plan, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < std::min(end, begin + kRowsTouched); ++u) {
        const int64_t offset = plan.rows[u] * table.stride;
        touch(table.weight + offset);
        if (table.stride != table.dim) continue;  // the moments are on the same page
        touch(table.exp_avg + offset);
        touch(table.exp_avg_sq + offset);
    }
}

// Brings rows up to the step of a series, and finds out whether their moments are finite; one a
// thread.
class CatchUp {
  public:
    CatchUp(const AdamSeries& series, float eps, int64_t dim, bool looks = false)
        : series_(series), eps_(eps), looks_(looks), largest_(dim) {}

    // Brings the weight of a row from step tau, which its moments are at, to the series' step.
    void weight(float* weight, const float* exp_avg, const float* exp_avg_sq, int64_t tau) {
        if (!is_late(tau)) return;
        if (const AdamSegment* whole = series_.whole(tau))
            apply_segment(weight, exp_avg, exp_avg_sq, dim(), eps_, *whole);
        else
            for (const AdamSegment& s : segments(tau))
                apply_segment(weight, exp_avg, exp_avg_sq, dim(), eps_, s);
    }

    // Brings the whole row there.
    void row(float* weight, float* exp_avg, float* exp_avg_sq, int64_t tau) {
        this->weight(weight, exp_avg, exp_avg_sq, tau);
        if (!is_late(tau)) {
            if (!looks_) return;
            raise_magnitudes(largest_.data(), exp_avg, dim());
            raise_magnitudes(largest_.data(), exp_avg_sq, dim());
            return;
        }
        const AdamDecay decay = series_.decay(series_.step() - tau);
        if (looks_)
            decay_and_look(exp_avg, exp_avg_sq, largest_.data(), dim(), decay);
        else
            decay_moments(exp_avg, exp_avg_sq, dim(), decay);
    }

    // Whether all moments that were looked at are finite.
    bool saw_finite() const { return is_finite(largest_); }

  private:
    int64_t dim() const { return static_cast<int64_t>(largest_.size()); }

    // A row that was never touched, tau 0, misses nothing: its moments are 0.
    bool is_late(int64_t tau) const { return tau > 0 && tau < series_.step(); }

    // Many rows share a gap.
    const std::vector<AdamSegment>& segments(int64_t tau) {
        const int64_t gap = series_.step() - tau;
        if (gap >= kCachedGaps) {
            series_.segments(tau, uncached_);
            return uncached_;
        }
        if (by_gap_.empty()) by_gap_.resize(kCachedGaps);
        if (by_gap_[gap].empty()) series_.segments(tau, by_gap_[gap]);
        return by_gap_[gap];
    }

    const AdamSeries& series_;
    float eps_;
    bool looks_;                     // at the moments of the rows it brings up
    std::vector<uint32_t> largest_;  // magnitude of a moment, by column
    std::vector<std::vector<AdamSegment>> by_gap_;
    std::vector<AdamSegment> uncached_;
};

}  // namespace

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

int64_t adam_catch_up_and_gather(const AdamTable& table, const AdamHyper& hyper,
                                 const AdamSeries& series, const GatherPlan& plan, float* out,
                                 bool check_moments) {
    const auto unique = static_cast<int64_t>(plan.rows.size());
    const int64_t dim = table.dim;
    const bool large = is_large(table);
    std::atomic<int64_t> first_bad{unique};
    ThreadPool::instance().parallel_for(unique, [&](int64_t begin, int64_t end) {
        CatchUp catch_up(series, hyper.eps, dim, check_moments);
        if (large) touch_rows(table, plan, begin, end);
        for (int64_t u = begin; u < end; ++u) {
            if (large && (u - begin) % kRowsTouched == 0)
                touch_rows(table, plan, u + kRowsTouched, end);
            if (u + kRowsAhead < end) {
                prefetch_state(table, plan.rows[u + kRowsAhead]);
                prefetch_row(out + plan.order[plan.starts[u + kRowsAhead]] * dim, dim);
            }
            const int64_t row = plan.rows[u];
            const int64_t offset = row * table.stride;
            float* weight = table.weight + offset;
            if (row != 0) {  // row 0 is padding: zero and frozen
                catch_up.row(weight, table.exp_avg + offset, table.exp_avg_sq + offset,
                             table.stamp[row]);
                if (table.stamp[row] != 0) table.stamp[row] = static_cast<int32_t>(series.step());
            }
            for (int32_t o = plan.starts[u]; o < plan.starts[u + 1]; ++o)
                std::memcpy(out + plan.order[o] * dim, weight, dim * sizeof(float));
        }
        if (catch_up.saw_finite()) return;
        for (int64_t u = begin; u < end; ++u) {
            const int64_t offset = plan.rows[u] * table.stride;
            if (plan.rows[u] == 0 || (all_finite(table.exp_avg + offset, dim) &&
                                      all_finite(table.exp_avg_sq + offset, dim)))
                continue;
            for (int64_t first = first_bad; u < first;)
                if (first_bad.compare_exchange_weak(first, u)) break;
            return;
        }
    });
    return first_bad < unique ? plan.rows[first_bad] : -1;
}

void adam_read(const AdamTable& table, const AdamHyper& hyper, const AdamSeries& series,
               const int64_t* ids, int64_t n, float* out) {
    const int64_t dim = table.dim;
    ThreadPool::instance().parallel_for(n, [&](int64_t begin, int64_t end) {
        CatchUp catch_up(series, hyper.eps, dim);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t offset = ids[i] * table.stride;
            std::memcpy(out + i * dim, table.weight + offset, dim * sizeof(float));
            catch_up.weight(out + i * dim, table.exp_avg + offset, table.exp_avg_sq + offset,
                            table.stamp[ids[i]]);
        }
    });
}

void adam_flush(const AdamTable& table, const AdamHyper& hyper, const AdamSeries& series) {
    ThreadPool::instance().parallel_for(table.num_rows, [&](int64_t begin, int64_t end) {
        CatchUp catch_up(series, hyper.eps, table.dim);
        for (int64_t row = begin; row < end; ++row) {
            if (table.stamp[row] == 0) continue;
            const int64_t offset = row * table.stride;
            catch_up.row(table.weight + offset, table.exp_avg + offset, table.exp_avg_sq + offset,
                         table.stamp[row]);
            table.stamp[row] = static_cast<int32_t>(series.step());
        }
    });
}

REMI_SIMD void adam_step(float* w, float* m, float* v, const float* g, int64_t n,
                         const AdamHyper& hyper, float step_size, float inv_sqrt_correction) {
    const auto beta2 = static_cast<float>(hyper.beta2);
    const auto rest1 =
        static_cast<float>(1.0 - hyper.beta1);  // not 1.0f - beta2: that loses digits
    const auto rest2 = static_cast<float>(1.0 - hyper.beta2);
    const float eps = hyper.eps;
    for (int64_t i = 0; i < n; ++i) {
        m[i] += rest1 * (g[i] - m[i]);  // one rounding less than of two products
        v[i] = beta2 * v[i] + rest2 * g[i] * g[i];
        w[i] -= step_size * m[i] / (std::sqrt(v[i]) * inv_sqrt_correction + eps);
    }
}

void adam_step_at(float* w, float* m, float* v, const float* g, int64_t n, const AdamHyper& hyper,
                  double lr, double t) {
    const double step_size = lr / -std::expm1(t * std::log(hyper.beta1));
    const double correction = 1 / std::sqrt(-std::expm1(t * std::log(hyper.beta2)));
    adam_step(w, m, v, g, n, hyper, static_cast<float>(step_size), static_cast<float>(correction));
}

void adam_update(const AdamTable& table, const AdamHyper& hyper, const GatherPlan& plan,
                 const float* grads, int64_t t) {
    const auto unique = static_cast<int64_t>(plan.rows.size());
    const int64_t dim = table.dim;
    ThreadPool::instance().parallel_for(unique, [&](int64_t begin, int64_t end) {
        std::vector<float> sum(dim);
        for (int64_t u = begin; u < end; ++u) {
            if (u + kRowsAhead < end) {
                prefetch_state(table, plan.rows[u + kRowsAhead]);
                prefetch_row(grads + plan.order[plan.starts[u + kRowsAhead]] * dim, dim);
            }
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
            const int64_t offset = row * table.stride;
            adam_step(table.weight + offset, table.exp_avg + offset, table.exp_avg_sq + offset, g,
                      dim, hyper, static_cast<float>(hyper.step_size[t]),
                      static_cast<float>(hyper.inv_sqrt_correction[t]));
            table.stamp[row] = static_cast<int32_t>(t);
        }
    });
}
