#pragma once
// The multi-interest IHN loss and the routing regularizer on the CPU, forward and backward.
// Formulas: docs/method.md. B users, K interests, D dimensions, N negatives, L history places.
#include <cstdint>

#include "lanes.hpp"

struct IhnInputs {
    int64_t B, K, D, N, L;
    const float* interests;       // (B, K, D)
    const float* target;          // (B, D)
    const float* negatives;       // (N, D)
    const float* routing;         // (B, K, L), or null
    const int64_t* target_ids;    // (B,) and
    const int64_t* negative_ids;  // (N,): equal ids are left out; or null
    const float* importance;      // (N,) 1 / q up to a common factor, or null
    const float* target_log_q;    // (B,), or null
    double beta, log_scale;
    bool detach_weights;
};

struct IhnOutputs {
    float* loss;       // (B,)
    int64_t* chosen;   // (B,) the interest nearest to the target
    float* rr;         // (B,), or null without routing
    float* row_stats;  // (4, B): maximum of the scores s, the factors of exp((1 + beta)(s - max))
                       // and of exp(beta (s - max)) in dloss/ds, dloss/dlogZ
    float* slope;      // (B, D) dloss/dquery, or null
    LaneRow* roots;    // (ceil(B / 32), N) what the backward pass would else make again, or null
};

struct IhnSaved {
    const int64_t* chosen;
    const float *row_stats, *slope;
    const float *grad_loss, *grad_rr;  // (B,), or null
    const LaneRow* roots;
};

struct IhnGradients {  // each may be null
    float* interests;  // (B, K, D)
    float* target;     // (B, D)
    float* negatives;  // (N, D)
    float* routing;    // (B, K, L)
};

bool ihn_loss_available();  // on this machine: elsewhere other products of matrices are faster
bool ihn_loss_can_keep_roots(const IhnInputs&);
void ihn_loss_forward(const IhnInputs&, const IhnOutputs&);
void ihn_loss_backward(const IhnInputs&, const IhnSaved&, const IhnGradients&);
