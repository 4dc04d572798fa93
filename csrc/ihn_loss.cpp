#include "ihn_loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "lanes.hpp"
#include "routing.hpp"
#include "thread_pool.hpp"

// Products of matrices want fused multiply-adds. So the bits of this file depend on the
// instruction set, as those of any matrix product do, but never on the number of threads.
#pragma GCC optimize("fp-contract=fast")

namespace {

constexpr int64_t kTile = 64;        // negatives multiplied at a time: a tile stays in the cache
constexpr int64_t kChunk = 1 << 14;  // negatives whose scores a block of users keeps: 2 MiB
constexpr int64_t kGroup = 16;       // negatives summed in float before they go into a double
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// beta 0 and 1 take one exponential a score, any other two.
enum class Beta { kZero, kOne, kAny };

// What a block of 32 users, one a lane, works with.
struct Scratch {
    Scratch(int64_t dim, int64_t chunk) : queries(dim), slope(dim), tile(kTile), own_roots(chunk) {}

    LaneRows queries;  // [dim]
    LaneRows slope;    // [dim] dloss/dquery
    LaneRows tile;     // [kTile] dloss/dscore
    LaneRows own_roots;
    LaneRow* roots = own_roots.data();  // [chunk] what the exponentials of a score are made from
    LaneRow base, hard_factor, weight_factor;
    float target_score[kLanes];
    int64_t target_ids[kLanes];
    float maximum[kLanes];
    double hard_sum[kLanes], weight_sum[kLanes];
};

// With as many partial sums as a register holds: quicker than that of lanes.hpp, other bits.
template <class V>
REMI_INLINE float dot(const float* a, const float* b, int64_t dim) {
    typename V::Float sums = {};
    int64_t j = 0;
    for (; j + V::width <= dim; j += V::width) sums += V::load(a + j) * V::load(b + j);
    float total = 0;
    for (int64_t l = 0; l < V::width; ++l) total += sums[l];
    for (; j < dim; ++j) total += a[j] * b[j];
    return total;
}

// The interest with the largest inner product with the target; as in an argmax, the first of
// equal ones, and NaN before any number.
template <class V>
REMI_INLINE int64_t nearest_interest(const IhnInputs& in, int64_t user, float* score) {
    int64_t chosen = 0;
    for (int64_t k = 0; k < in.K; ++k) {
        const float* interest = in.interests + (user * in.K + k) * in.D;
        const float found = dot<V>(interest, in.target + user * in.D, in.D);
        if (k == 0 || found > *score || (found != found && *score == *score)) {
            chosen = k;
            *score = found;
        }
    }
    return chosen;
}

template <class V>
REMI_INLINE void choose_interests(const IhnInputs& in, const IhnOutputs& out, int64_t first,
                                  Scratch& s) {
    std::fill(s.queries.begin(), s.queries.end(), LaneRow{});
    for (int64_t u = 0; u < kLanes; ++u) {
        const int64_t user = first + u;
        s.target_ids[u] = in.target_ids && user < in.B ? in.target_ids[user] : -1;
        if (user >= in.B) continue;
        const int64_t k = nearest_interest<V>(in, user, &s.target_score[u]);
        out.chosen[user] = k;
        const float* query = in.interests + (user * in.K + k) * in.D;
        for (int64_t d = 0; d < in.D; ++d) s.queries[d].lane[u] = query[d];
    }
}

// Scores of negatives [begin, begin + count) with the users of one block.
template <class V, int ROWS>
REMI_INLINE void score(const IhnInputs& in, const LaneRow* queries, const int64_t* target_ids,
                       int64_t begin, int64_t count, LaneRow* scores) {
    multiply<V, ROWS, false>(count, in.negatives + begin * in.D, in.D, 1, in.D, queries->lane,
                             kLanes, scores->lane, kLanes);
    if (!in.negative_ids) return;
    for (int64_t j = 0; j < count; ++j)
        for (int64_t u = 0; u < kLanes; ++u)
            if (target_ids[u] == in.negative_ids[begin + j]) scores[j].lane[u] = -kInfinity;
}

// exp(x) where one exponential does, else x itself, for x = score - base.
template <class V, Beta BETA>
REMI_INLINE typename V::Float root_of(typename V::Float x) {
    return BETA == Beta::kAny ? x : V::exp(x);
}

// exp((1 + beta) x) and exp(beta x) from the root.
template <class V, Beta BETA>
REMI_INLINE void exponentials(typename V::Float root, float beta, typename V::Float& hard,
                              typename V::Float& weight) {
    if constexpr (BETA == Beta::kZero) {
        hard = root;
        weight = V::all(1.0f);
    } else if constexpr (BETA == Beta::kOne) {
        hard = root * root;
        weight = root;
    } else {
        hard = V::exp(root * (1 + beta));
        weight = V::exp(root * beta);
    }
}

// Scores of a chunk into s.roots; the running maximum and its finite stand-in, the base, follow.
template <class V, int ROWS>
REMI_INLINE void score_chunk(const IhnInputs& in, int64_t begin, int64_t count, Scratch& s) {
    typename V::Float maximum[V::count];
    for (int64_t v = 0; v < V::count; ++v) maximum[v] = V::load(s.maximum + v * V::width);
    for (int64_t start = 0; start < count; start += kTile) {
        const int64_t size = std::min(kTile, count - start);
        LaneRow* scores = s.roots + start;
        score<V, ROWS>(in, s.queries.data(), s.target_ids, begin + start, size, scores);
        for (int64_t j = 0; j < size; ++j)
            for (int64_t v = 0; v < V::count; ++v) {
                const typename V::Float value = V::load(scores[j].lane + v * V::width);
                maximum[v] = value > maximum[v] ? value : maximum[v];
            }
    }
    for (int64_t v = 0; v < V::count; ++v) V::store(s.maximum + v * V::width, maximum[v]);
    for (int64_t u = 0; u < kLanes; ++u)
        s.base.lane[u] = s.maximum[u] == -kInfinity ? 0 : s.maximum[u];
}

// Turns the scores of a chunk into roots and adds their exponentials to the sums.
template <class V, Beta BETA>
REMI_INLINE void add_chunk(const IhnInputs& in, int64_t begin, int64_t count, Scratch& s) {
    const float beta = static_cast<float>(in.beta);
    for (int64_t group = 0; group < count; group += kGroup) {
        typename V::Float hard_sum[V::count] = {}, weight_sum[V::count] = {};
        for (int64_t j = group; j < std::min(group + kGroup, count); ++j) {
            const float importance = in.importance ? in.importance[begin + j] : 1.0f;
            for (int64_t v = 0; v < V::count; ++v) {
                float* place = s.roots[j].lane + v * V::width;
                const typename V::Float value = V::load(place);
                const typename V::Float root =
                    root_of<V, BETA>(value - V::load(s.base.lane + v * V::width));
                typename V::Float hard, weight;
                exponentials<V, BETA>(root, beta, hard, weight);
                if (BETA == Beta::kZero && in.negative_ids)
                    weight = value == V::all(-kInfinity) ? typename V::Float{} : weight;
                V::store(place, root);
                hard_sum[v] += hard * importance;
                weight_sum[v] += weight * importance;
            }
        }
        float sums[kLanes];
        for (int64_t v = 0; v < V::count; ++v) V::store(sums + v * V::width, hard_sum[v]);
        for (int64_t u = 0; u < kLanes; ++u) s.hard_sum[u] += sums[u];
        for (int64_t v = 0; v < V::count; ++v) V::store(sums + v * V::width, weight_sum[v]);
        for (int64_t u = 0; u < kLanes; ++u) s.weight_sum[u] += sums[u];
    }
}

// The sums so far, made with the base of an earlier chunk.
void rescale(double beta, const LaneRow& old_base, Scratch& s) {
    for (int64_t u = 0; u < kLanes; ++u) {
        const double shift = static_cast<double>(old_base.lane[u]) - s.base.lane[u];
        s.hard_sum[u] *= std::exp((1 + beta) * shift);
        s.weight_sum[u] *= std::exp(beta * shift);
    }
}

// dloss/dscore of a tile of roots, for the factors of this block's users.
template <class V, Beta BETA>
REMI_INLINE void slopes(const IhnInputs& in, const LaneRow* roots, const LaneRow& hard_factor,
                        const LaneRow& weight_factor, int64_t begin, int64_t count, LaneRow* to) {
    const float beta = static_cast<float>(in.beta);
    for (int64_t j = 0; j < count; ++j) {
        const float importance = in.importance ? in.importance[begin + j] : 1.0f;
        for (int64_t v = 0; v < V::count; ++v) {
            const int64_t lane = v * V::width;
            typename V::Float hard, weight;
            exponentials<V, BETA>(V::load(roots[j].lane + lane), beta, hard, weight);
            typename V::Float value = V::load(hard_factor.lane + lane) * hard;
            if constexpr (BETA != Beta::kZero) value -= V::load(weight_factor.lane + lane) * weight;
            V::store(to[j].lane + lane, value * importance);
        }
    }
}

// Roots of scores in place.
template <class V, Beta BETA>
REMI_INLINE void take_roots(const LaneRow& base, int64_t count, LaneRow* scores) {
    for (int64_t j = 0; j < count; ++j)
        for (int64_t v = 0; v < V::count; ++v) {
            float* place = scores[j].lane + v * V::width;
            V::store(place, root_of<V, BETA>(V::load(place) - V::load(base.lane + v * V::width)));
        }
}

// Loss and statistics of the user in lane u.
void finish_user(const IhnInputs& in, const IhnOutputs& out, int64_t user, int64_t u, Scratch& s) {
    const bool empty = s.weight_sum[u] == 0;  // nothing to compare with
    const double log_z =
        s.base.lane[u] + std::log(s.hard_sum[u]) - std::log(s.weight_sum[u]) + in.log_scale;
    const double correction = in.target_log_q ? in.target_log_q[user] : 0;
    const double margin = log_z - (s.target_score[u] - correction);
    const double small = std::exp(-std::fabs(margin));
    const double loss = (margin > 0 ? margin : 0) + std::log1p(small);               // softplus
    const double probability = empty ? 0 : (margin >= 0 ? 1 : small) / (1 + small);  // sigmoid
    const double scale = in.detach_weights ? 1 : 1 + in.beta;
    const double weight_scale = in.detach_weights ? 0 : in.beta;
    out.loss[user] = static_cast<float>(empty ? 0 : loss);
    s.hard_factor.lane[u] = static_cast<float>(empty ? 0 : probability * scale / s.hard_sum[u]);
    s.weight_factor.lane[u] =
        static_cast<float>(empty ? 0 : probability * weight_scale / s.weight_sum[u]);
    out.row_stats[user] = s.base.lane[u];
    out.row_stats[in.B + user] = s.hard_factor.lane[u];
    out.row_stats[2 * in.B + user] = s.weight_factor.lane[u];
    out.row_stats[3 * in.B + user] = static_cast<float>(probability);
}

template <class V, int ROWS, Beta BETA>
REMI_INLINE void query_slopes(const IhnInputs& in, const IhnOutputs& out, int64_t first,
                              Scratch& s) {
    std::fill(s.slope.begin(), s.slope.end(), LaneRow{});
    for (int64_t begin = 0; begin < in.N; begin += kChunk) {
        const int64_t count = std::min(kChunk, in.N - begin);
        for (int64_t start = 0; start < count; start += kTile) {
            const int64_t size = std::min(kTile, count - start);
            LaneRow* roots = s.roots + start;
            if (in.N > kChunk) {  // the roots of one chunk are there already
                score<V, ROWS>(in, s.queries.data(), s.target_ids, begin + start, size, roots);
                take_roots<V, BETA>(s.base, size, roots);
            }
            slopes<V, BETA>(in, roots, s.hard_factor, s.weight_factor, begin + start, size,
                            s.tile.data());
            multiply<V, ROWS, true>(in.D, in.negatives + (begin + start) * in.D, 1, in.D, size,
                                    s.tile[0].lane, kLanes, s.slope[0].lane, kLanes);
        }
    }
    for (int64_t u = 0; u < std::min(kLanes, in.B - first); ++u) {
        const int64_t user = first + u;
        const float probability = out.row_stats[3 * in.B + user];
        for (int64_t d = 0; d < in.D; ++d)
            out.slope[user * in.D + d] =
                s.slope[d].lane[u] - probability * in.target[user * in.D + d];
    }
}

template <class V, int ROWS, Beta BETA>
REMI_INLINE void forward_block(const IhnInputs& in, const IhnOutputs& out, int64_t first,
                               Scratch& s) {
    if (out.roots) s.roots = out.roots + first / kLanes * in.N;
    choose_interests<V>(in, out, first, s);
    s.base = s.hard_factor = s.weight_factor = LaneRow{};
    std::fill(s.maximum, s.maximum + kLanes, -kInfinity);
    std::fill(s.hard_sum, s.hard_sum + kLanes, 0.0);
    std::fill(s.weight_sum, s.weight_sum + kLanes, 0.0);
    for (int64_t begin = 0; begin < in.N; begin += kChunk) {
        const int64_t count = std::min(kChunk, in.N - begin);
        const LaneRow old_base = s.base;
        score_chunk<V, ROWS>(in, begin, count, s);
        if (begin > 0) rescale(in.beta, old_base, s);
        add_chunk<V, BETA>(in, begin, count, s);
    }
    for (int64_t u = 0; u < std::min(kLanes, in.B - first); ++u)
        finish_user(in, out, first + u, u, s);
    if (out.slope) query_slopes<V, ROWS, BETA>(in, out, first, s);
}

// The queries of all users, in blocks of 32, as both products of the backward pass want them.
struct PackedQueries {
    int64_t blocks, columns;                    // D in whole rows of lanes
    LaneRows by_dim;                            // [blocks][D]: lanes are users
    LaneRows by_user;                           // [blocks * 32][columns]: lanes are dimensions
    LaneRows base, hard_factor, weight_factor;  // [blocks], times the loss's gradient
    std::vector<int64_t> target_ids;            // [blocks * 32]
    const LaneRow* roots;                       // [blocks][N], or null: make them again
};

PackedQueries pack_queries(const IhnInputs& in, const IhnSaved& saved) {
    PackedQueries packed;
    packed.roots = saved.roots;
    const int64_t blocks = packed.blocks = (in.B + kLanes - 1) / kLanes;
    const int64_t columns = packed.columns = (in.D + kLanes - 1) / kLanes;
    packed.by_dim.assign(blocks * in.D, LaneRow{});
    packed.by_user.assign(blocks * kLanes * columns, LaneRow{});
    for (LaneRows* rows : {&packed.base, &packed.hard_factor, &packed.weight_factor})
        rows->assign(blocks, LaneRow{});
    packed.target_ids.assign(blocks * kLanes, -1);
    ThreadPool::instance().parallel_for(in.B, [&](int64_t begin, int64_t end) {
        for (int64_t user = begin; user < end; ++user) {
            const int64_t block = user / kLanes, u = user % kLanes;
            const float* query = in.interests + (user * in.K + saved.chosen[user]) * in.D;
            for (int64_t d = 0; d < in.D; ++d) packed.by_dim[block * in.D + d].lane[u] = query[d];
            std::copy(query, query + in.D, packed.by_user[user * columns].lane);
            const float gain = saved.grad_loss[user];
            packed.base[block].lane[u] = saved.row_stats[user];
            packed.hard_factor[block].lane[u] = saved.row_stats[in.B + user] * gain;
            packed.weight_factor[block].lane[u] = saved.row_stats[2 * in.B + user] * gain;
            if (in.target_ids) packed.target_ids[user] = in.target_ids[user];
        }
    });
    return packed;
}

// Gradients of negatives [begin, begin + count), summed over the users in blocks of 32.
template <class V, int ROWS, Beta BETA>
REMI_INLINE void negative_gradients(const IhnInputs& in, const PackedQueries& packed, int64_t begin,
                                    int64_t count, LaneRow* tile, LaneRows& sums,
                                    float* gradients) {
    const int64_t columns = packed.columns, width = columns * kLanes;
    std::fill(sums.begin(), sums.end(), LaneRow{});
    for (int64_t block = 0; block < packed.blocks; ++block) {
        const LaneRow* roots = packed.roots ? packed.roots + block * in.N + begin : tile;
        if (!packed.roots) {
            score<V, ROWS>(in, &packed.by_dim[block * in.D], &packed.target_ids[block * kLanes],
                           begin, count, tile);
            take_roots<V, BETA>(packed.base[block], count, tile);
        }
        slopes<V, BETA>(in, roots, packed.hard_factor[block], packed.weight_factor[block], begin,
                        count, tile);
        const float* queries = packed.by_user[block * kLanes * columns].lane;
        for (int64_t c = 0; c < columns; ++c)
            multiply<V, ROWS, true>(count, tile->lane, kLanes, 1, kLanes, queries + c * kLanes,
                                    width, sums[c].lane, width);
    }
    for (int64_t j = 0; j < count; ++j) {
        const float* sum = sums[j * columns].lane;
        std::copy(sum, sum + in.D, gradients + (begin + j) * in.D);
    }
}

// Of each user the rows of interests, target and routing.
void row_gradients(const IhnInputs& in, const IhnSaved& saved, const IhnGradients& out,
                   int64_t user) {
    const int64_t chosen = saved.chosen[user];
    const float gain = saved.grad_loss ? saved.grad_loss[user] : 0;
    if (out.interests) {
        float* interests = out.interests + user * in.K * in.D;
        std::fill(interests, interests + in.K * in.D, 0.0f);
        const float* slope = saved.slope + user * in.D;
        for (int64_t d = 0; d < in.D; ++d) interests[chosen * in.D + d] = gain * slope[d];
    }
    if (out.target) {
        const float strength = -gain * saved.row_stats[3 * in.B + user];
        const float* query = in.interests + (user * in.K + chosen) * in.D;
        for (int64_t d = 0; d < in.D; ++d) out.target[user * in.D + d] = strength * query[d];
    }
}

// The two loops for one instruction set and one kind of beta.
struct Code {
    void (*forward_block)(const IhnInputs&, const IhnOutputs&, int64_t first, Scratch&);
    void (*negative_gradients)(const IhnInputs&, const PackedQueries&, int64_t begin, int64_t count,
                               LaneRow* tile, LaneRows& sums, float* gradients);
};

#define REMI_IHN_CODE(NAME, TARGET, WIDTH, ROWS)                                                \
    template <Beta BETA>                                                                        \
    TARGET void forward_block_##NAME(const IhnInputs& in, const IhnOutputs& out, int64_t first, \
                                     Scratch& s) {                                              \
        forward_block<Vec<WIDTH>, ROWS, BETA>(in, out, first, s);                               \
    }                                                                                           \
    template <Beta BETA>                                                                        \
    TARGET void negative_gradients_##NAME(const IhnInputs& in, const PackedQueries& packed,     \
                                          int64_t begin, int64_t count, LaneRow* tile,          \
                                          LaneRows& sums, float* gradients) {                   \
        negative_gradients<Vec<WIDTH>, ROWS, BETA>(in, packed, begin, count, tile, sums,        \
                                                   gradients);                                  \
    }                                                                                           \
    template <Beta BETA>                                                                        \
    Code code_##NAME() {                                                                        \
        return {forward_block_##NAME<BETA>, negative_gradients_##NAME<BETA>};                   \
    }

// As many rows as the registers hold sums of.
#if defined(__x86_64__) && defined(__GNUC__)
REMI_IHN_CODE(avx2, __attribute__((target("avx2,fma"))), 8, 2)
REMI_IHN_CODE(avx512, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), 16, 8)
#endif

template <Beta BETA>
Code code_for_this_machine() {
#if defined(__x86_64__) && defined(__GNUC__)
    if (simd_level() == SimdLevel::kAvx512) return code_avx512<BETA>();
    if (simd_level() == SimdLevel::kAvx2) return code_avx2<BETA>();
#endif
    throw std::runtime_error("the IHN loss in C++ needs AVX2 and FMA");
}

Code code_for(double beta) {
    static const Code zero = code_for_this_machine<Beta::kZero>();
    static const Code one = code_for_this_machine<Beta::kOne>();
    static const Code any = code_for_this_machine<Beta::kAny>();
    return beta == 0 ? zero : beta == 1 ? one : any;
}

}  // namespace

bool ihn_loss_available() { return simd_level() != SimdLevel::kPlain; }

bool ihn_loss_can_keep_roots(const IhnInputs& in) { return in.N <= kChunk; }

void ihn_loss_forward(const IhnInputs& in, const IhnOutputs& out) {
    const Code code = code_for(in.beta);
    const int64_t blocks = (in.B + kLanes - 1) / kLanes;
    ThreadPool::instance().parallel_for(blocks, [&](int64_t begin, int64_t end) {
        Scratch scratch(in.D, out.roots ? 0 : std::min(in.N, kChunk));
        for (int64_t block = begin; block < end; ++block)
            code.forward_block(in, out, block * kLanes, scratch);
        if (out.rr)
            for (int64_t user = begin * kLanes; user < std::min(end * kLanes, in.B); ++user)
                out.rr[user] =
                    routing_regularizer(in.routing + user * in.K * in.L, in.K, in.L, in.D);
    });
}

void ihn_loss_backward(const IhnInputs& in, const IhnSaved& saved, const IhnGradients& out) {
    ThreadPool& pool = ThreadPool::instance();
    if (out.interests || out.target || out.routing)
        pool.parallel_for(in.B, [&](int64_t begin, int64_t end) {
            for (int64_t user = begin; user < end; ++user) {
                row_gradients(in, saved, out, user);
                if (!out.routing) continue;
                const int64_t start = user * in.K * in.L;
                routing_gradients(in.routing + start, in.K, in.L, in.D, saved.grad_rr[user],
                                  out.routing + start);
            }
        });
    if (!out.negatives) return;
    const Code code = code_for(in.beta);
    const PackedQueries packed = pack_queries(in, saved);
    pool.parallel_for((in.N + kTile - 1) / kTile, [&](int64_t begin, int64_t end) {
        LaneRows tile(kTile), sums(kTile * packed.columns);
        for (int64_t start = begin * kTile; start < std::min(end * kTile, in.N); start += kTile)
            code.negative_gradients(in, packed, start, std::min(kTile, in.N - start), tile.data(),
                                    sums, out.negatives);
    });
}
