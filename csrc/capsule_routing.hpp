#pragma once
// Dynamic routing of votes (ComiRec, algorithm 1). Formulas: docs/method.md.
#include <cstdint>

struct CapsuleSizes {
    int64_t users, interests, positions, dim;
};

// Vectors of all users, interests (stride 0 where they share them) and positions.
template <typename T>
struct CapsuleRows {
    T* data;
    int64_t user, interest, position;  // strides

    T* of(int64_t b, int64_t k) const { return data + b * user + k * interest; }
};

struct CapsuleInputs {
    CapsuleSizes sizes;
    CapsuleRows<const float> votes;
    const int64_t* length;
    const float* logits;
    int64_t logits_user;  // stride, 0 where users share them
};

struct CapsuleGradients {
    const float *routing, *grad_interests, *grad_routing;  // the last may be null
    CapsuleRows<float> grad_votes;
};

// interests (B, K, d) and routing (B, K, L).
void capsule_routing(const CapsuleInputs&, float* interests, float* routing);

// Writes all of grad_votes.
void capsule_routing_backward(const CapsuleInputs&, const CapsuleGradients&);
