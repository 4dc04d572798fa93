#include "loader.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "permutation.hpp"
#include "philox.hpp"

namespace {

// Samples handled together: enough for their cache misses to overlap, few enough to stay in L1.
constexpr int64_t kChunk = 128;
constexpr uint64_t kMaxWord = 0xffffffff;
constexpr int64_t kItemsPerLine = 16;

}  // namespace

BatchSampler::BatchSampler(const int32_t* items, std::vector<Span> spans,
                           const SamplerOptions& options)
    : items_(items), spans_(std::move(spans)), options_(options) {
    for (const Span& span : spans_) num_targets_ += span.length - options_.min_history;
    if (options_.every_target_once) index_targets();
}

bool BatchSampler::with_replacement() const {
    return !options_.every_target_once && num_users() < static_cast<uint64_t>(options_.batch_size);
}

// Finding the span of a target costs a look into its bucket and a short scan from there.
void BatchSampler::index_targets() {
    while (num_users() << (bucket_bits_ + 1) <= num_targets_) ++bucket_bits_;
    targets_before_.reserve(spans_.size() + 1);
    bucket_.reserve((num_targets_ >> bucket_bits_) + 1);
    uint64_t before = 0;
    for (size_t row = 0; row < spans_.size(); ++row) {
        targets_before_.push_back(before);
        before += spans_[row].length - options_.min_history;
        while (uint64_t{bucket_.size()} << bucket_bits_ < before)
            bucket_.push_back(static_cast<uint32_t>(row));
    }
    targets_before_.push_back(before);
}

void BatchSampler::choose_uniform(uint32_t step, int64_t begin, int64_t end, Sample* out) const {
    const bool replace = with_replacement();
    const KeyedPermutation permutation(num_users(), options_.seed, step);
    for (int64_t b = begin; b < end; ++b) {
        const auto index = static_cast<uint32_t>(b);
        const uint64_t row =
            replace ? bounded(word64(random_words(index, step, stream::kUsers, options_.seed)),
                              num_users())
                    : permutation(index);
        out[b - begin].span = &spans_[row];
        __builtin_prefetch(&spans_[row]);
    }
    for (int64_t b = begin; b < end; ++b) {
        const PhiloxWords words =
            random_words(static_cast<uint32_t>(b), step, stream::kTargets, options_.seed);
        Sample& sample = out[b - begin];
        sample.rank = bounded(word64(words), sample.span->length - options_.min_history);
    }
}

void BatchSampler::choose_in_epoch(uint32_t step, int64_t begin, int64_t end, Sample* out) const {
    const uint64_t first = uint64_t{step} * static_cast<uint64_t>(options_.batch_size);
    uint64_t targets[kChunk];
    for (int64_t b = begin; b < end;) {
        const uint64_t number = first + static_cast<uint64_t>(b), epoch = number / num_targets_;
        if (epoch > kMaxWord)
            throw std::invalid_argument("step " + std::to_string(step) + " lies in epoch " +
                                        std::to_string(epoch) + ", beyond the last one, 2^32 - 1");
        const KeyedPermutation permutation(num_targets_, options_.seed,
                                           static_cast<uint32_t>(epoch));
        uint64_t rank = number % num_targets_;
        for (; b < end && rank < num_targets_; ++b, ++rank) {
            targets[b - begin] = permutation(rank);
            __builtin_prefetch(&bucket_[targets[b - begin] >> bucket_bits_]);
        }
    }
    for (int64_t i = 0; i < end - begin; ++i) {
        const uint32_t row = bucket_[targets[i] >> bucket_bits_];
        out[i].span = &spans_[row];
        __builtin_prefetch(&targets_before_[row]);
    }
    for (int64_t i = 0; i < end - begin; ++i) {
        auto row = static_cast<uint64_t>(out[i].span - spans_.data());
        while (targets_before_[row + 1] <= targets[i]) ++row;
        out[i] = {&spans_[row], targets[i] - targets_before_[row]};
        __builtin_prefetch(out[i].span);
    }
}

void BatchSampler::fill(uint64_t step, const BatchBuffers& out) const {
    if (step > kMaxWord)
        throw std::invalid_argument("step " + std::to_string(step) +
                                    " is beyond the last one, 2^32 - 1");
    const int64_t width = options_.max_history;
    Sample samples[kChunk];
    for (int64_t begin = 0; begin < options_.batch_size; begin += kChunk) {
        const int64_t end = std::min(begin + kChunk, options_.batch_size);
        if (options_.every_target_once)
            choose_in_epoch(static_cast<uint32_t>(step), begin, end, samples);
        else
            choose_uniform(static_cast<uint32_t>(step), begin, end, samples);
        for (const Sample* s = samples; s < samples + (end - begin); ++s) {
            const auto before = static_cast<int64_t>(s->rank) + options_.min_history;
            const int32_t* target = items_ + s->span->start + before;
            const int32_t* oldest = target - std::min(before, width);
            for (const int32_t* line = oldest; line < target; line += kItemsPerLine)
                __builtin_prefetch(line);
            __builtin_prefetch(target);
        }
        for (int64_t b = begin; b < end; ++b) {
            const Sample& s = samples[b - begin];
            const auto before = static_cast<int64_t>(s.rank) + options_.min_history;
            const int64_t length = std::min(before, width);
            const int32_t* target = items_ + s.span->start + before;
            int32_t* history = out.history + b * width;
            std::memcpy(history, target - length, static_cast<size_t>(length) * sizeof(int32_t));
            std::fill(history + length, history + width, 0);
            out.length[b] = static_cast<int32_t>(length);
            out.target[b] = *target;
            out.user[b] = s.span->user;
        }
    }
}

BatchRing::BatchRing(const BatchSampler& sampler, std::vector<BatchBuffers> slots,
                     uint64_t start_step, int threads)
    : sampler_(sampler),
      slots_(std::move(slots)),
      ahead_(slots_.size() - kHeld),
      taken_(start_step),
      claimed_(start_step),
      ready_(slots_.size(), false) {
    try {
        for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
    } catch (...) {  // no more threads to be had: those that started must not outlive the ring
        close();
        throw;
    }
}

void BatchRing::fill_one(std::unique_lock<std::mutex>& lock) {
    const uint64_t step = claimed_++;
    std::exception_ptr error;
    lock.unlock();
    try {
        sampler_.fill(step, slots_[step % slots_.size()]);
    } catch (...) {
        error = std::current_exception();
    }
    lock.lock();
    if (!error) {
        ready_[step % slots_.size()] = true;
    } else if (!error_ || step < error_step_) {
        error_ = error;
        error_step_ = step;
    }
    if (step == taken_) filled_.notify_all();
}

void BatchRing::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        space_.wait(lock, [this] { return closed_ || error_ || claimed_ < taken_ + ahead_; });
        if (closed_ || error_) return;
        fill_one(lock);
    }
}

uint64_t BatchRing::next() {
    std::lock_guard<std::mutex> one_consumer(consumer_);
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t step = taken_;
    for (;;) {
        if (closed_) throw std::runtime_error("the batch loader is closed");
        if (ready_[step % slots_.size()]) break;
        if (error_ && error_step_ <= step) std::rethrow_exception(error_);
        if (claimed_ == step)
            fill_one(lock);  // nobody has begun: quicker than waking somebody
        else
            filled_.wait(lock);
    }
    ready_[step % slots_.size()] = false;
    ++taken_;
    // Workers are woken for half a ring of work, not for every batch.
    const bool wake = 2 * (taken_ + ahead_ - claimed_) >= ahead_;
    lock.unlock();
    if (wake) space_.notify_one();
    return step;
}

void BatchRing::close() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        closed_ = true;
    }
    space_.notify_all();
    filled_.notify_all();
    std::lock_guard<std::mutex> one_joiner(joining_);
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}
