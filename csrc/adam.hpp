#pragma once
// Dense Adam at the cost of the touched rows: a row is brought up to date just before it is read.
//
// A row with moments m, v and stamp tau has missed the steps tau+1..t, all with gradient 0: see
// adam_series.hpp.
#include <cstdint>
#include <vector>

#include "adam_series.hpp"

// Rows of `dim` floats, their two moments, each `stride` from row to row, and the step a row was
// last brought up to. With a row's weight and moments side by side (stride 3 dim) it is on one
// page.
struct AdamTable {
    float* weight;
    float* exp_avg;
    float* exp_avg_sq;
    int32_t* stamp;
    int64_t num_rows, dim, stride;
};

// Occurrences of ids grouped by id: rows[u] occurs at order[starts[u]..starts[u+1]), ascending.
struct GatherPlan {
    std::vector<int32_t> rows, starts, order;
};

GatherPlan make_gather_plan(const int64_t* ids, int64_t n, int64_t num_rows);
// These three are at the step that `AdamSeries::prepare` went to.
//
// check_moments: returns the first of the rows whose moments are not finite, or -1.
int64_t adam_catch_up_and_gather(const AdamTable&, const AdamHyper&, const AdamSeries&,
                                 const GatherPlan&, float* out, bool check_moments);
void adam_read(const AdamTable&, const AdamHyper&, const AdamSeries&, const int64_t* ids, int64_t n,
               float* out);
void adam_flush(const AdamTable&, const AdamHyper&, const AdamSeries&);

void adam_update(const AdamTable&, const AdamHyper&, const GatherPlan&, const float* grads,
                 int64_t t);

// One step of Adam with gradients g on n values w, whose moments are m and v.
void adam_step(float* w, float* m, float* v, const float* g, int64_t n, const AdamHyper&,
               float step_size, float inv_sqrt_correction);

// The same as step t, counted from 1, at the learning rate lr.
void adam_step_at(float* w, float* m, float* v, const float* g, int64_t n, const AdamHyper&,
                  double lr, double t);
