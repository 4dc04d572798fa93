// Dynamic routing of votes (ComiRec, algorithm 1), forward and backward, a user at a time.
// Formulas: docs/method.md. The same bits for every number of threads and instruction set.
#include "capsule_routing.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "lanes.hpp"
#include "simd.hpp"
#include "thread_pool.hpp"

namespace {

using V = Vec<8>;

using Sizes = CapsuleSizes;
using Inputs = CapsuleInputs;
using Gradients = CapsuleGradients;

// What one interest of one user needs; a vector a position is padded to whole registers.
struct Scratch {
    explicit Scratch(const Sizes& s)
        : padded((s.positions + V::width - 1) / V::width * V::width),
          logits(padded, -std::numeric_limits<float>::infinity()),
          routing(padded),
          slope(padded),
          sum(s.dim),
          interest(s.dim),
          grad_sum(s.dim),
          grad_before(s.dim) {}

    int64_t padded;
    std::vector<float> logits, routing, slope, sum, interest, grad_sum, grad_before;
};

REMI_INLINE void add(float factor, const float* from, int64_t n, float* to) {
    for (int64_t j = 0; j < n; ++j) to[j] += factor * from[j];
}

// softmax of the logits, 0 from `length` on.
REMI_INLINE void route(Scratch& s, int64_t positions, int64_t length) {
    float maximum = s.logits[0];
    for (int64_t l = 1; l < positions; ++l) maximum = std::max(maximum, s.logits[l]);
    for (int64_t l = 0; l < s.padded; l += V::width)
        V::store(&s.routing[l], V::exp(V::load(&s.logits[l]) - V::all(maximum)));
    float total = 0.0f;
    for (int64_t l = 0; l < positions; ++l) total += s.routing[l];
    for (int64_t l = 0; l < length; ++l) s.routing[l] /= total;
    for (int64_t l = length; l < positions; ++l) s.routing[l] = 0.0f;
}

REMI_INLINE void mix(const float* weights, const float* votes, int64_t stride, int64_t length,
                     std::vector<float>& sum) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t l = 0; l < length; ++l) add(weights[l], votes + l * stride, sum.size(), &sum[0]);
}

// v |v| / (1 + |v|^2)
REMI_INLINE void squash(const std::vector<float>& v, float* out) {
    const int64_t n = v.size();
    const float square = dot(&v[0], &v[0], n);
    const float factor = std::sqrt(square) / (1.0f + square);
    for (int64_t j = 0; j < n; ++j) out[j] = v[j] * factor;
}

// The gradient of v from that of squash(v); 0 at 0.
REMI_INLINE void squash_gradient(const std::vector<float>& v, const float* gradient, float* out) {
    const int64_t n = v.size();
    const float square = dot(&v[0], &v[0], n);
    const float norm = std::sqrt(std::max(square, std::numeric_limits<float>::min()));
    const float along = dot(&v[0], gradient, n) / norm * (1.0f - square) / (1.0f + square);
    const float factor = norm / (1.0f + square);
    for (int64_t j = 0; j < n; ++j) out[j] = (gradient[j] + along * (v[j] / norm)) * factor;
}

// The logits after one more iteration, with its routing, sum and interest.
REMI_INLINE void iterate(const Inputs& in, const float* votes, int64_t length, Scratch& s) {
    route(s, in.sizes.positions, length);
    mix(&s.routing[0], votes, in.votes.position, length, s.sum);
    squash(s.sum, &s.interest[0]);
    for (int64_t l = 0; l < length; ++l)
        s.logits[l] += dot(votes + l * in.votes.position, &s.interest[0], in.sizes.dim);
}

REMI_INLINE void start(const Inputs& in, int64_t b, int64_t k, Scratch& s) {
    const float* logits = in.logits + b * in.logits_user + k * in.sizes.positions;
    std::copy(logits, logits + in.sizes.positions, s.logits.begin());
}

REMI_SIMD void forward_user(const Inputs& in, int64_t b, int64_t length, Scratch& s, float* out,
                            float* routing) {
    const int64_t interests = in.sizes.interests, positions = in.sizes.positions;
    const int64_t dim = in.sizes.dim;
    for (int64_t k = 0; k < interests; ++k) {
        const float* votes = in.votes.of(b, k);
        start(in, b, k, s);
        iterate(in, votes, length, s);
        iterate(in, votes, length, s);
        route(s, positions, length);
        mix(&s.routing[0], votes, in.votes.position, length, s.sum);
        squash(s.sum, out + k * dim);
        std::copy_n(s.routing.begin(), positions, routing + k * positions);
    }
}

REMI_SIMD void backward_user(const Inputs& in, const Gradients& g, int64_t b, int64_t length,
                             Scratch& s) {
    const int64_t interests = in.sizes.interests, positions = in.sizes.positions;
    const int64_t dim = in.sizes.dim;
    for (int64_t k = 0; k < interests; ++k) {
        const float* votes = in.votes.of(b, k);
        const int64_t place = b * interests + k, stride = in.votes.position;
        const float* routing = g.routing + place * positions;
        mix(routing, votes, stride, length, s.sum);
        squash_gradient(s.sum, g.grad_interests + place * dim, &s.grad_sum[0]);
        if (g.grad_routing != nullptr) {  // the iteration before, and the gradient of its sum
            start(in, b, k, s);
            iterate(in, votes, length, s);
            iterate(in, votes, length, s);
            float mean = 0.0f;
            for (int64_t l = 0; l < length; ++l) {
                s.slope[l] = g.grad_routing[place * positions + l] +
                             dot(votes + l * stride, &s.grad_sum[0], dim);
                mean += routing[l] * s.slope[l];
            }
            for (int64_t l = 0; l < length; ++l) s.slope[l] = routing[l] * (s.slope[l] - mean);
            mix(&s.slope[0], votes, stride, length, s.grad_before);
            squash_gradient(s.sum, &s.grad_before[0], &s.grad_before[0]);
        }
        for (int64_t l = 0; l < positions; ++l) {
            float* row = g.grad_votes.of(b, k) + l * g.grad_votes.position;
            if (k == 0 || g.grad_votes.interest != 0) std::fill_n(row, dim, 0.0f);
            if (l >= length) continue;
            add(routing[l], &s.grad_sum[0], dim, row);
            if (g.grad_routing == nullptr) continue;
            add(s.slope[l], &s.interest[0], dim, row);
            add(s.routing[l], &s.grad_before[0], dim, row);
        }
    }
}

// Runs body(user, length, scratch) for all users.
template <class Body>
void for_users(const Inputs& in, const Body& body) {
    ThreadPool::instance().parallel_for(in.sizes.users, [&](int64_t begin, int64_t end) {
        Scratch scratch(in.sizes);
        for (int64_t b = begin; b < end; ++b)
            body(b, std::clamp<int64_t>(in.length[b], 0, in.sizes.positions), scratch);
    });
}

}  // namespace

void capsule_routing(const CapsuleInputs& in, float* interests, float* routing) {
    for_users(in, [&](int64_t b, int64_t length, Scratch& scratch) {
        forward_user(in, b, length, scratch, interests + b * in.sizes.interests * in.sizes.dim,
                     routing + b * in.sizes.interests * in.sizes.positions);
    });
}

void capsule_routing_backward(const CapsuleInputs& in, const CapsuleGradients& gradients) {
    for_users(in, [&](int64_t b, int64_t length, Scratch& scratch) {
        backward_user(in, gradients, b, length, scratch);
    });
}
