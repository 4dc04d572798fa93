#pragma once
// Dense Adam at the cost of the touched rows: a row is brought up to date just before it is read.
//
// A row with moments m, v and stamp tau has missed the steps tau+1..t, all with gradient 0. Their
// sum is replaced by a short series about the mean step (method: see docs/deferred_adam.md), on
// segments of steps over which the step size hardly changes; segments of one step are the replay.
#include <cstdint>
#include <vector>

struct AdamHyper {
    double beta1, beta2;
    float eps;
    // Of every step j so far, by j: lr_j / (1 - beta1^j) and 1 / sqrt(1 - beta2^j).
    const double* step_size;
    const double* inv_sqrt_correction;
};

// One float row of `dim` values, its two moments and the step it was last brought up to.
struct AdamTable {
    float* weight;
    float* exp_avg;
    float* exp_avg_sq;
    int32_t* stamp;
    int64_t num_rows, dim;
};

// Occurrences of ids grouped by id: rows[u] occurs at order[starts[u]..starts[u+1]), ascending.
struct GatherPlan {
    std::vector<int32_t> rows, starts, order;
};

// The series of one segment of missed steps: p -= m/y * (t0 + h^2 (t2 - h (t3 - h t4))).
struct AdamSegment {
    float r0, t0, t2, t3, t4;
};

class AdamCatchUp {
  public:
    explicit AdamCatchUp(const AdamHyper& hyper);

    // Brings `weight` (and, unless null, the moments) of a row from step tau to step t.
    void row(float* weight, float* exp_avg, float* exp_avg_sq, const float* old_exp_avg,
             const float* old_exp_avg_sq, int64_t dim, int64_t tau, int64_t t);

  private:
    const std::vector<AdamSegment>& segments(int64_t tau, int64_t t);
    AdamSegment segment(int64_t tau, int64_t first, int64_t last) const;

    AdamHyper hyper_;
    int64_t horizon_;            // later missed steps add nothing to a float
    int64_t settled_;            // from this step on the bias corrections change slowly
    int64_t longest_;            // steps of a segment over which beta2^(k/2) is nearly constant
    std::vector<double> decay_;  // beta1^k, beta2^(k/2), interleaved by k
    // Segments by gap of the step they were last made for: many rows share a gap.
    std::vector<std::vector<AdamSegment>> by_gap_;
    std::vector<int64_t> made_for_;
    std::vector<AdamSegment> uncached_;
};

GatherPlan make_gather_plan(const int64_t* ids, int64_t n, int64_t num_rows);
void adam_catch_up_and_gather(const AdamTable&, const AdamHyper&, const GatherPlan&, int64_t t,
                              float* out);
void adam_read(const AdamTable&, const AdamHyper&, const int64_t* ids, int64_t n, int64_t t,
               float* out);
void adam_flush(const AdamTable&, const AdamHyper&, int64_t t);
void adam_update(const AdamTable&, const AdamHyper&, const GatherPlan&, const float* grads,
                 int64_t t);
