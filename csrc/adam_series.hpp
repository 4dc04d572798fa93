#pragma once
// What a row has missed, in closed form: the moves of steps whose gradient was 0 are summed by a
// short series about the mean step (docs/deferred_adam.md).
#include <cstdint>
#include <vector>

struct AdamHyper {
    double beta1, beta2;
    float eps;
    // Of every step j so far, by j: lr_j / (1 - beta1^j) and 1 / sqrt(1 - beta2^j).
    const double* step_size;
    const double* inv_sqrt_correction;
    int64_t steps;  // how many of each there is room for
};

// The series of some missed steps in a row: p -= m/y * (t0 + h^2 (t2 - h (t3 - h t4))).
struct AdamSegment {
    float r0, t0, t2, t3, t4;
};

// Factors of the two moments after some missed steps.
struct AdamDecay {
    float exp_avg, exp_avg_sq;
};

// The series of every row at one step. They depend on its stamp tau and the step t only, and where
// t is far enough from tau, on tau alone: those are kept from step to step.
class AdamSeries {
  public:
    explicit AdamSeries(const AdamHyper& hyper);

    // Goes on to step t; the other functions are about that step, and change nothing.
    void prepare(int64_t t);
    int64_t step() const { return step_; }

    // All missed steps of a row stamped tau, 0 < tau < t, or null where `segments` has to do.
    const AdamSegment* whole(int64_t tau) const {
        if (tau < first_ || horizon_ > longest_) return nullptr;
        const int64_t gap = step_ - tau;
        return gap < horizon_ ? &by_gap_[gap] : &by_stamp_[tau - first_];
    }
    // The same as several segments.
    void segments(int64_t tau, std::vector<AdamSegment>& made) const;

    AdamDecay decay(int64_t gap) const;

  private:
    AdamSegment segment(int64_t tau, int64_t first, int64_t last) const;
    void make_by_gap();

    AdamHyper hyper_;
    int64_t step_ = -1;
    int64_t first_ = 0;                  // stamp of by_stamp_[0]
    int64_t made_ = 0;                   // how many of by_stamp_ there are
    int64_t horizon_;                    // later missed steps add nothing to a float
    int64_t settled_;                    // from this step on the bias corrections change slowly
    int64_t longest_;                    // steps over which beta2^(k/2) is nearly constant
    std::vector<double> beta1_powers_;   // beta1^k, by k - 1
    std::vector<double> beta2_powers_;   // beta2^(k/2), by k - 1
    std::vector<AdamDecay> decay_;       // by gap
    std::vector<AdamSegment> by_gap_;    // up to the horizon, at step_
    std::vector<AdamSegment> by_stamp_;  // from the horizon on, by tau - first_; room for all steps
};
