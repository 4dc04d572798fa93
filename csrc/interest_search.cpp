#include "interest_search.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "lanes.hpp"
#include "thread_pool.hpp"

// Products of matrices want fused multiply-adds. So the bits of a score depend on the instruction
// set, as those of any matrix product do, but never on the number of threads or pieces.
#pragma GCC optimize("fp-contract=fast")

namespace {

constexpr int64_t kBlock = 1 << 17;  // floats of interests that meet a panel: they stay in a cache
constexpr int64_t kTerms = 64;       // of an inner product summed in a row, for its rounding
constexpr int64_t kSpareRoom = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool is_better(const FoundItem& a, const FoundItem& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// 32 items side by side, one a lane; lanes without an item are 0.
void pack(const float* rows, int64_t count, int64_t dim, LaneRow* panel) {
    for (int64_t d = 0; d < dim; ++d)
        for (int64_t l = 0; l < kLanes; ++l) panel[d].lane[l] = l < count ? rows[l * dim + d] : 0;
}

// The largest score of each lane over the interests of a user; whether any is above the threshold.
template <class V>
REMI_INLINE bool best_scores(const LaneRow* scores, int64_t num_interests, float threshold,
                             LaneRow& best) {
    typename V::Bits above = {};
    for (int64_t v = 0; v < V::count; ++v) {
        typename V::Float most = V::load(scores[0].lane + v * V::width);
        for (int64_t k = 1; k < num_interests; ++k) {
            const typename V::Float value = V::load(scores[k].lane + v * V::width);
            most = value > most ? value : most;
        }
        above |= (typename V::Bits)(most > V::all(threshold));
        V::store(best.lane + v * V::width, most);
    }
    uint32_t any = 0;
    for (int64_t l = 0; l < V::width; ++l) any |= above[l];
    return any != 0;
}

void consider_lanes(InterestSearch& search, int64_t user, const LaneRow* scores,
                    const LaneRow& best, int64_t count, int64_t first_id) {
    for (int64_t l = 0; l < count; ++l) {
        if (!(best.lane[l] > search.threshold(user))) continue;
        int32_t interest = 0;
        while (scores[interest].lane[l] != best.lane[l]) ++interest;
        search.consider(user, {best.lane[l], static_cast<int32_t>(first_id + l), interest});
    }
}

// Inner products of interests (count, dim) with the items of a panel.
template <class V, int ROWS>
REMI_INLINE void score(const float* interests, int64_t count, int64_t dim, const LaneRow* panel,
                       LaneRow* scores) {
    multiply<V, ROWS, false>(count, interests, dim, 1, std::min(kTerms, dim), panel->lane, kLanes,
                             scores->lane, kLanes);
    for (int64_t d = kTerms; d < dim; d += kTerms)
        multiply<V, ROWS, true>(count, interests + d, dim, 1, std::min(kTerms, dim - d),
                                panel[d].lane, kLanes, scores->lane, kLanes);
}

// Users [begin, end) meet a panel; `scores` has room for `group` of them.
template <class V, int ROWS>
REMI_INLINE void meet(InterestSearch& search, int64_t begin, int64_t end, const LaneRow* panel,
                      int64_t count, int64_t first_id, int64_t group, LaneRow* scores) {
    const int64_t dim = search.dim(), num_interests = search.num_interests();
    for (int64_t user = begin; user < end; user += group) {
        const int64_t size = std::min(group, end - user);
        score<V, ROWS>(search.interests(user), size * num_interests, dim, panel, scores);
        for (int64_t u = 0; u < size; ++u) {
            LaneRow best;
            const LaneRow* own = scores + u * num_interests;
            if (best_scores<V>(own, num_interests, search.threshold(user + u), best))
                consider_lanes(search, user + u, own, best, count, first_id);
        }
    }
}

template <class V, int ROWS>
REMI_INLINE void search_users(InterestSearch& search, int64_t begin, int64_t end, const float* rows,
                              int64_t count, int64_t first_id) {
    const int64_t dim = search.dim(), num_interests = search.num_interests();
    const int64_t group = ROWS / std::gcd<int64_t>(ROWS, num_interests);  // whole ROWS of interests
    const int64_t block = std::max(group, kBlock / (num_interests * dim));
    LaneRows panel(dim), scores(group * num_interests);
    for (int64_t user = begin; user < end; user += block)
        for (int64_t start = 0; start < count; start += kLanes) {
            const int64_t size = std::min(kLanes, count - start);
            pack(rows + start * dim, size, dim, panel.data());
            meet<V, ROWS>(search, user, std::min(user + block, end), panel.data(), size,
                          first_id + start, group, scores.data());
        }
}

using SearchUsers = void (*)(InterestSearch&, int64_t, int64_t, const float*, int64_t, int64_t);

#define REMI_SEARCH_CODE(NAME, TARGET, WIDTH, ROWS)                                       \
    TARGET void search_users_##NAME(InterestSearch& search, int64_t begin, int64_t end,   \
                                    const float* rows, int64_t count, int64_t first_id) { \
        search_users<Vec<WIDTH>, ROWS>(search, begin, end, rows, count, first_id);        \
    }

// As many rows as the registers hold sums of.
REMI_SEARCH_CODE(plain, , 4, 1)
#if defined(__x86_64__) && defined(__GNUC__)
REMI_SEARCH_CODE(avx2, __attribute__((target("avx2,fma"))), 8, 2)
REMI_SEARCH_CODE(avx512, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), 16, 8)
#endif

SearchUsers code_for_this_machine() {
#if defined(__x86_64__) && defined(__GNUC__)
    if (simd_level() == SimdLevel::kAvx512) return search_users_avx512;
    if (simd_level() == SimdLevel::kAvx2) return search_users_avx2;
#endif
    return search_users_plain;
}

}  // namespace

InterestSearch::InterestSearch(const float* interests, int64_t users, int64_t num_interests,
                               int64_t dim, int64_t k, const int64_t* seen, int64_t num_seen)
    : users_(users),
      num_interests_(num_interests),
      dim_(dim),
      k_(k),
      room_(2 * k + kSpareRoom),
      interests_(interests, interests + users * num_interests * dim),
      seen_(seen, seen + users * num_seen),
      num_seen_(num_seen),
      best_(users, {{}, -kInfinity}) {
    for (int64_t user = 0; user < users; ++user)
        std::sort(seen_.begin() + user * num_seen, seen_.begin() + (user + 1) * num_seen);
}

void InterestSearch::add(const float* rows, int64_t count, int64_t first_id) {
    static const SearchUsers code = code_for_this_machine();
    const auto search = [&](int64_t begin, int64_t end) {
        code(*this, begin, end, rows, count, first_id);
    };
    ThreadPool::instance().parallel_for(users_, search, 1);  // every range packs all items anew
    next_id_ = first_id + count;
}

// Ids come in order, so an item that only equals the threshold is not among the k best.
void InterestSearch::consider(int64_t user, const FoundItem& item) {
    const auto seen = seen_.begin() + user * num_seen_;
    if (std::binary_search(seen, seen + num_seen_, static_cast<int64_t>(item.id))) return;
    Best& best = best_[user];
    best.items.push_back(item);
    if (static_cast<int64_t>(best.items.size()) < room_) return;
    std::nth_element(best.items.begin(), best.items.begin() + (k_ - 1), best.items.end(),
                     is_better);
    best.items.resize(k_);
    best.threshold = best.items.back().score;
}

void InterestSearch::result(int64_t* ids, float* scores, int64_t* interest) const {
    ThreadPool::instance().parallel_for(users_, [&](int64_t begin, int64_t end) {
        for (int64_t user = begin; user < end; ++user) {
            std::vector<FoundItem> items = best_[user].items;
            const auto found = std::min<int64_t>(k_, items.size());
            std::partial_sort(items.begin(), items.begin() + found, items.end(), is_better);
            items.resize(k_, {-kInfinity, 0, 0});
            for (int64_t i = 0; i < k_; ++i) {
                ids[user * k_ + i] = items[i].id;
                scores[user * k_ + i] = items[i].score;
                interest[user * k_ + i] = items[i].interest;
            }
        }
    });
}
