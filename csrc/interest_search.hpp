#pragma once
// Exact top-k search: of every user the items with the largest inner product with any interest.
#include <cstdint>
#include <vector>

// A retrieved item; before another where its score is larger, or equal and its id smaller.
struct FoundItem {
    float score;
    int32_t id;
    int32_t interest;
};

// The best items of each user so far; the catalogue comes in pieces, in the order of its ids.
class InterestSearch {
  public:
    // interests (users, num_interests, dim); k >= 1; seen (users, num_seen): ids never to retrieve.
    // Both are copied.
    InterestSearch(const float* interests, int64_t users, int64_t num_interests, int64_t dim,
                   int64_t k, const int64_t* seen, int64_t num_seen);

    // Looks at the items first_id .. first_id + count - 1, rows (count, dim); ids only go up.
    void add(const float* rows, int64_t count, int64_t first_id);

    // ids, scores, interest (users, k): best first; where nothing is left id 0, score -inf.
    void result(int64_t* ids, float* scores, int64_t* interest) const;

    int64_t users() const { return users_; }
    int64_t dim() const { return dim_; }
    int64_t k() const { return k_; }
    int64_t next_id() const { return next_id_; }

    // What the loops over the catalogue, compiled for several instruction sets, work on.
    const float* interests(int64_t user) const {
        return interests_.data() + user * num_interests_ * dim_;
    }
    int64_t num_interests() const { return num_interests_; }
    float threshold(int64_t user) const { return best_[user].threshold; }
    void consider(int64_t user, const FoundItem& item);

  private:
    struct Best {
        std::vector<FoundItem> items;  // the k best are among them
        float threshold;               // what an item has to be above
    };

    int64_t users_, num_interests_, dim_, k_, room_, next_id_ = 1;
    std::vector<float> interests_;
    std::vector<int64_t> seen_;  // of each user num_seen_, in order
    int64_t num_seen_;
    std::vector<Best> best_;
};
