#pragma once
// The elementwise middle of the self-attentive extractor, fused with its thin projections.
#include <cstdint>

// hidden (rows, width) becomes tanh(hidden); logits (rows, K) = hidden projection^T, with
// projection (K, width).
void tanh_project(float* hidden, const float* projection, float* logits, int64_t rows,
                  int64_t width, int64_t num_interests);

// grad_hidden = (grad_logits projection) * (1 - hidden^2), hidden being the tanh from above.
void tanh_project_backward(const float* hidden, const float* projection, const float* grad_logits,
                           float* grad_hidden, int64_t rows, int64_t width, int64_t num_interests);
