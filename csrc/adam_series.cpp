#include "adam_series.hpp"

#include <algorithm>
#include <cmath>

#include "simd.hpp"

namespace {

constexpr int64_t kTabledGaps = 1 << 16;
constexpr int64_t kTabledStamps = 1 << 20;  // when a training goes on
constexpr double kSegmentGrowth = 0.2;      // keeps the series within 5e-8 at every step (tests)
constexpr double kVariation = 0.17;         // of beta2^k over a segment: all 159 at (0.9, 0.999)
constexpr double kNegligible = 6e-8;        // what adds nothing to a float
constexpr double kGone = 1e-38;             // what a float cannot hold
constexpr double kSmallestUnit = 1e-300;    // of r, where beta2^(k/2) itself underflows
constexpr int64_t kLanes = 8;               // partial sums, whatever the instruction set
constexpr int kMoments = 5;                 // sums of c r^q, q = 0..4

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

// Sums of c_k (r_k / unit)^q over n steps: c_k = step_size[k] beta1^k, r_k = correction[k]
// beta2^(k/2). Relative, because r^4 alone leaves the range of a double where beta2 is small.
REMI_SIMD void sum_moments(const double* step_size, const double* correction,
                           const double* beta1_powers, const double* beta2_powers, double unit,
                           int64_t n, double* moments) {
    const double inv_unit = 1 / unit;
    double sums[kMoments][kLanes] = {};
    int64_t k = 0;
    for (; k + kLanes <= n; k += kLanes)
        for (int64_t l = 0; l < kLanes; ++l) {
            double term = step_size[k + l] * beta1_powers[k + l];
            const double r = correction[k + l] * beta2_powers[k + l] * inv_unit;
            for (int q = 0; q < kMoments; ++q, term *= r) sums[q][l] += term;
        }
    for (int64_t l = 0; k + l < n; ++l) {
        double term = step_size[k + l] * beta1_powers[k + l];
        const double r = correction[k + l] * beta2_powers[k + l] * inv_unit;
        for (int q = 0; q < kMoments; ++q, term *= r) sums[q][l] += term;
    }
    for (int q = 0; q < kMoments; ++q) {
        moments[q] = 0;
        for (int64_t l = 0; l < kLanes; ++l) moments[q] += sums[q][l];
    }
}

// From moments about 0, in units of r, to moments about the mean; what cancels is far below a
// float, in double.
AdamSegment about_mean(const double* moments, double unit) {
    const double t0 = moments[0];
    if (t0 == 0) return {1.0f, 0.0f, 0.0f, 0.0f, 0.0f};  // learning rate 0 all along
    const double mean = moments[1] / t0;
    if (mean == 0) return {0.0f, static_cast<float>(t0), 0.0f, 0.0f, 0.0f};  // eps is all there is
    const double inv = 1 / mean;
    const double second = moments[2] / t0 * inv * inv;
    const double third = moments[3] / t0 * inv * inv * inv;
    const double fourth = moments[4] / t0 * inv * inv * inv * inv;
    return {static_cast<float>(mean * unit), static_cast<float>(t0),
            static_cast<float>(t0 * (second - 1)),
            static_cast<float>(t0 * (third - 3 * second + 2)),
            static_cast<float>(t0 * (fourth - 4 * third + 6 * second - 3))};
}

AdamDecay decay_after(const AdamHyper& hyper, int64_t gap) {
    const auto steps = static_cast<double>(gap);
    return {static_cast<float>(std::pow(hyper.beta1, steps)),
            static_cast<float>(std::pow(hyper.beta2, steps))};
}

}  // namespace

AdamSeries::AdamSeries(const AdamHyper& hyper) : hyper_(hyper) {
    horizon_ = horizon(hyper);
    settled_ = static_cast<int64_t>(std::ceil(30.0 / (1.0 - hyper.beta1)));
    longest_ = std::max<int64_t>(1, static_cast<int64_t>(-kVariation / std::log(hyper.beta2)));
    for (int64_t k = 1; k <= horizon_; ++k) {
        beta1_powers_.push_back(std::pow(hyper.beta1, static_cast<double>(k)));
        beta2_powers_.push_back(std::pow(hyper.beta2, 0.5 * static_cast<double>(k)));
    }
}

void AdamSeries::prepare(int64_t t) {
    if (t == step_) return;
    step_ = t;
    while (static_cast<int64_t>(decay_.size()) < std::min(t, kTabledGaps))
        decay_.push_back(decay_after(hyper_, static_cast<int64_t>(decay_.size())));
    if (horizon_ > longest_) return;
    make_by_gap();
    if (by_stamp_.empty()) {
        first_ = std::max(settled_, t - horizon_ - kTabledStamps);
        by_stamp_.resize(std::max<int64_t>(0, hyper_.steps - first_));
    }
    for (; first_ + made_ + horizon_ <= t; ++made_)
        by_stamp_[made_] = segment(first_ + made_, 0, horizon_);
}

// A row of the next smaller stamp has missed one step more: every moment of it follows.
void AdamSeries::make_by_gap() {
    by_gap_.assign(1, {});
    double factors[kMoments], moments[kMoments] = {};
    for (int q = 0; q < kMoments; ++q) factors[q] = hyper_.beta1 * std::pow(hyper_.beta2, 0.5 * q);
    for (int64_t gap = 1; gap < std::min(horizon_, step_); ++gap) {
        double term = hyper_.step_size[step_ - gap + 1];
        const double correction = hyper_.inv_sqrt_correction[step_ - gap + 1];
        for (int q = 0; q < kMoments; ++q, term *= correction)
            moments[q] = factors[q] * (term + moments[q]);
        by_gap_.push_back(about_mean(moments, 1.0));  // beta2 is near 1 here
    }
}

// Missed steps tau+first+1 .. tau+last of a row stamped tau.
AdamSegment AdamSeries::segment(int64_t tau, int64_t first, int64_t last) const {
    const double* step_size = hyper_.step_size + tau + first + 1;
    const double* correction = hyper_.inv_sqrt_correction + tau + first + 1;
    const double unit = std::max(correction[0] * beta2_powers_[first], kSmallestUnit);
    double moments[kMoments];
    sum_moments(step_size, correction, beta1_powers_.data() + first, beta2_powers_.data() + first,
                unit, last - first, moments);
    return about_mean(moments, unit);
}

void AdamSeries::segments(int64_t tau, std::vector<AdamSegment>& made) const {
    made.clear();
    const int64_t end = std::min(step_ - tau, horizon_);
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
}

AdamDecay AdamSeries::decay(int64_t gap) const {
    return gap < static_cast<int64_t>(decay_.size()) ? decay_[gap] : decay_after(hyper_, gap);
}
