#pragma once
// One pool of worker threads for the whole process, shared by every parallel loop in csrc.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

// A sleeping thread takes some 50 us to wake, several times in a training step. So threads stay
// awake for a while after a loop (12 us), and one that wakes late finds ranges left for it.
constexpr int kTurnsAwake = 500;
constexpr int64_t kRangesPerThread = 4;

class ThreadPool {
  public:
    static ThreadPool& instance() {
        // Never destroyed: joining threads while the interpreter shuts down can hang.
        static ThreadPool* pool = new ThreadPool();
        return *pool;
    }

    // Number of threads that take part in a loop, the calling one included. 0 = all cores.
    void resize(int threads) {
        std::lock_guard<std::mutex> one_caller(call_);
        stop_workers();
        if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
        size_ = threads < 1 ? 1 : threads;
    }

    int size() const { return size_; }

    // Runs body(begin, end) over [0, n) in a few contiguous ranges a thread; blocks until done.
    // Where a range begins depends on the arguments and size() only, and no result may depend on
    // it.
    void parallel_for(int64_t n, const std::function<void(int64_t, int64_t)>& body,
                      int64_t ranges_per_thread = kRangesPerThread) {
        std::lock_guard<std::mutex> one_caller(call_);
        const int64_t parts = size_ == 1 ? 1 : std::min(n, size_ * ranges_per_thread);
        if (parts <= 1) {
            if (n > 0) body(0, n);
            return;
        }
        start_workers();
        {
            std::lock_guard<std::mutex> lock(mutex_);
            body_ = &body;
            n_ = n;
            parts_ = parts;
            next_ = 1;  // part 0 is the caller's
            pending_ = parts;
            ++generation_;
        }
        wake_.notify_all();
        run_part(0);
        for (int64_t part; (part = take()) >= 0;) run_part(part);
        stay_awake([this] { return pending_ == 0; });
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return pending_ == 0; });
        body_ = nullptr;
        if (error_) {
            std::exception_ptr error = error_;
            error_ = nullptr;
            std::rethrow_exception(error);
        }
    }

  private:
    ThreadPool() { resize(0); }

    void start_workers() {
        while (static_cast<int>(workers_.size()) < size_ - 1)
            workers_.emplace_back([this, seen = generation_.load()]() mutable { work(seen); });
    }

    void stop_workers() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
        workers_.clear();
        stopping_ = false;
    }

    template <class Condition>
    static void stay_awake(const Condition& until) {
        for (int turn = 0; turn < kTurnsAwake && !until(); ++turn) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#else
            std::this_thread::yield();
#endif
        }
    }

    int64_t take() {
        std::lock_guard<std::mutex> lock(mutex_);
        return body_ != nullptr && next_ < parts_ ? next_++ : -1;
    }

    void run_part(int64_t part) {
        try {
            (*body_)(n_* part / parts_, n_ * (part + 1) / parts_);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
        std::lock_guard<std::mutex> lock(mutex_);
        if (--pending_ == 0) done_.notify_all();
    }

    void work(uint64_t seen) {
        for (;;) {
            stay_awake([&] { return generation_ != seen; });
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
                if (stopping_) return;
                seen = generation_;
            }
            for (int64_t part; (part = take()) >= 0;) run_part(part);
        }
    }

    std::mutex call_;   // one loop at a time
    std::mutex mutex_;  // guards everything below
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int64_t)>* body_ = nullptr;
    std::exception_ptr error_;
    int64_t n_ = 0, parts_ = 0, next_ = 0;
    std::atomic<int64_t> pending_{0};      // changed under the mutex,
    std::atomic<uint64_t> generation_{0};  // and looked at without it by who stays awake
    int size_ = 1;
    bool stopping_ = false;
};
