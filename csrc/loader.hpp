#pragma once
// Training batches cut out of the users' item sequences, ahead of time, by worker threads.
//
// Batch t is a pure function of (seed, t): which thread makes it, when, and into which buffer does
// not matter. remi_fast/data/loader.py documents the formulas for users of the loader.
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

// The items of one user that may be trained on.
struct Span {
    int64_t start;  // in the array of all items
    uint32_t length;
    int32_t user;
};

// Where one batch goes: history (B, L), the others (B,).
struct BatchBuffers {
    int32_t *history, *length, *target, *user;
};

struct SamplerOptions {
    int64_t batch_size, max_history, min_history;
    uint64_t seed;
    bool every_target_once;  // sampling="epoch"; otherwise uniform users, then uniform targets
};

class BatchSampler {
  public:
    // `spans` are those of the users with a target: longer than min_history, at least one span.
    BatchSampler(const int32_t* items, std::vector<Span> spans, const SamplerOptions& options);

    // Throws std::invalid_argument where a step or its epoch is not below 2^32.
    void fill(uint64_t step, const BatchBuffers& out) const;

    const SamplerOptions& options() const { return options_; }
    uint64_t num_users() const { return spans_.size(); }
    bool with_replacement() const;

  private:
    struct Sample {
        const Span* span;
        uint64_t rank;  // among the targets of the span
    };

    void index_targets();
    void choose_uniform(uint32_t step, int64_t begin, int64_t end, Sample* out) const;
    void choose_in_epoch(uint32_t step, int64_t begin, int64_t end, Sample* out) const;

    const int32_t* items_;
    std::vector<Span> spans_;
    SamplerOptions options_;
    uint64_t num_targets_ = 0;
    // Of epochs only: targets before each span, and the span of every 2^bucket_bits_-th target.
    std::vector<uint64_t> targets_before_;
    std::vector<uint32_t> bucket_;
    int bucket_bits_ = 0;
};

// Fills a ring of buffers with consecutive batches; one consumer takes them in order.
class BatchRing {
  public:
    // A batch taken from the ring stays as it is until this many further batches were taken.
    static constexpr uint64_t kHeld = 2;

    // `slots` holds more than kHeld buffers; the sampler and the buffers outlive the ring.
    BatchRing(const BatchSampler& sampler, std::vector<BatchBuffers> slots, uint64_t start_step,
              int threads);
    ~BatchRing() { close(); }
    BatchRing(const BatchRing&) = delete;
    BatchRing& operator=(const BatchRing&) = delete;

    // Blocks until the next batch is there and returns its step; it lies in slot step % slots.
    // Rethrows what a worker met while making it; throws std::runtime_error once closed.
    uint64_t next();

    // Stops and joins the workers; may be called at any time, from any thread, more than once.
    void close();

  private:
    void work();
    // Makes the batch of the lowest unclaimed step; releases `lock` while it does.
    void fill_one(std::unique_lock<std::mutex>& lock);

    const BatchSampler& sampler_;
    const std::vector<BatchBuffers> slots_;
    const uint64_t ahead_;  // how many batches are made before they are asked for
    std::mutex consumer_;   // one consumer at a time
    std::mutex mutex_;      // guards everything below
    std::condition_variable space_, filled_;
    uint64_t taken_, claimed_;  // the first step not yet handed out, not yet begun
    std::vector<bool> ready_;   // by slot: filled and not yet handed out
    std::exception_ptr error_;
    uint64_t error_step_ = 0;
    bool closed_ = false;
    std::mutex joining_;
    std::vector<std::thread> workers_;
};
