#include <unistd.h>

#include <algorithm>
#include <memory>

#include "bindings.hpp"
#include "loader.hpp"

namespace py = pybind11;

namespace {

using Ids = Array<int32_t>;

// The data may be memory-mapped from any file: nothing is read later that was not checked here.
std::vector<Span> eligible_spans(const int32_t* items, int64_t num_items, const int32_t* users,
                                 const int64_t* spans, int64_t n, int64_t min_history) {
    for (int64_t i = 0; i < num_items; ++i)
        if (items[i] <= 0)
            throw std::invalid_argument(at("items", i, items[i]) + ", expected an item index >= 1");
    std::vector<int32_t> sorted(users, users + n);
    if (!std::is_sorted(sorted.begin(), sorted.end())) std::sort(sorted.begin(), sorted.end());
    const auto same = std::adjacent_find(sorted.begin(), sorted.end());
    require(same == sorted.end() || sorted.empty(),
            "users: " + std::to_string(same == sorted.end() ? 0 : *same) + " occurs twice");
    require(sorted.empty() || sorted.front() >= 0, "users: expected user indices >= 0");
    std::vector<Span> eligible;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t start = spans[2 * i], end = spans[2 * i + 1];
        if (start < 0 || start > end || end > num_items || end - start > UINT32_MAX)
            throw std::invalid_argument(at("spans", i, start) + " to " + std::to_string(end) +
                                        ", expected 0 <= start <= end <= " +
                                        std::to_string(num_items) + ", the number of items");
        if (end - start > min_history)
            eligible.push_back({start, static_cast<uint32_t>(end - start), users[i]});
    }
    require(!eligible.empty(),
            "no user to train on: none of the " + std::to_string(n) +
                " spans has more than min_history = " + std::to_string(min_history) + " items");
    return eligible;
}

// A sampler and the array it reads.
class SamplerHandle {
  public:
    SamplerHandle(Ids items, const Ids& users, const Array<int64_t>& spans,
                  const SamplerOptions& options)
        : items_(std::move(items)) {
        require(items_.ndim() == 1 && users.ndim() == 1, "items, users: expected 1 dimension");
        require(spans.ndim() == 2 && spans.shape(0) == users.shape(0) && spans.shape(1) == 2,
                "spans: expected shape (" + std::to_string(users.shape(0)) + ", 2)");
        const int32_t *items_data = items_.data(), *users_data = users.data();
        const int64_t *spans_data = spans.data(), num_items = items_.size(), n = users.size();
        py::gil_scoped_release release;
        sampler = std::make_unique<BatchSampler>(
            items_data,
            eligible_spans(items_data, num_items, users_data, spans_data, n, options.min_history),
            options);
    }

    // `rows` batches of the sampler's shape, one behind the other.
    BatchBuffers buffers(int64_t rows, Ids& history, Ids& length, Ids& target, Ids& user) const {
        const SamplerOptions& o = sampler->options();
        require(history.size() == rows * o.batch_size * o.max_history &&
                    length.size() == rows * o.batch_size && target.size() == length.size() &&
                    user.size() == length.size(),
                "a buffer's size is not that of " + std::to_string(rows) + " batches");
        return {history.mutable_data(), length.mutable_data(), target.mutable_data(),
                user.mutable_data()};
    }

    void fill(uint64_t step, Ids history, Ids length, Ids target, Ids user) const {
        const BatchBuffers out = buffers(1, history, length, target, user);
        py::gil_scoped_release release;
        sampler->fill(step, out);
    }

    std::unique_ptr<BatchSampler> sampler;

  private:
    Ids items_;
};

// A ring, what it reads and what it writes.
class RingHandle {
  public:
    RingHandle(std::shared_ptr<SamplerHandle> sampler, Ids history, Ids length, Ids target,
               Ids user, uint64_t start_step, int threads)
        : sampler_(std::move(sampler)),
          arrays_{std::move(history), std::move(length), std::move(target), std::move(user)} {
        const int64_t slots = arrays_[1].ndim() == 2 ? arrays_[1].shape(0) : 0;
        require(slots > static_cast<int64_t>(BatchRing::kHeld), "the ring has too few buffers");
        const BatchBuffers all =
            sampler_->buffers(slots, arrays_[0], arrays_[1], arrays_[2], arrays_[3]);
        const int64_t b = sampler_->sampler->options().batch_size;
        const int64_t width = sampler_->sampler->options().max_history;
        std::vector<BatchBuffers> each;
        for (int64_t s = 0; s < slots; ++s)
            each.push_back({all.history + s * b * width, all.length + s * b, all.target + s * b,
                            all.user + s * b});
        ring_ =
            std::make_unique<BatchRing>(*sampler_->sampler, std::move(each), start_step, threads);
    }

    ~RingHandle() { close_or_abandon(); }

    uint64_t next() {
        if (getpid() != owner_)
            throw std::runtime_error("the batch loader was opened before this process was forked");
        return ring_->next();
    }

    // A forked child has no workers to join, and maybe a lock that nobody will ever release.
    void close_or_abandon() {
        if (getpid() == owner_)
            ring_->close();
        else
            ring_.release();
    }

  private:
    std::shared_ptr<SamplerHandle> sampler_;
    Ids arrays_[4];
    const pid_t owner_ = getpid();
    std::unique_ptr<BatchRing> ring_;
};

std::shared_ptr<SamplerHandle> make_sampler(Ids items, const Ids& users,
                                            const Array<int64_t>& spans, int64_t batch_size,
                                            int64_t max_history, int64_t min_history, uint64_t seed,
                                            bool every_target_once) {
    require(batch_size >= 1 && batch_size <= INT32_MAX && max_history >= 1 && min_history >= 0,
            "batch_size, max_history or min_history is out of range");
    return std::make_shared<SamplerHandle>(
        std::move(items), users, spans,
        SamplerOptions{batch_size, max_history, min_history, seed, every_target_once});
}

}  // namespace

void register_loader(py::module_& m) {
    using namespace py::literals;
    py::class_<SamplerHandle, std::shared_ptr<SamplerHandle>>(m, "BatchSampler")
        .def(py::init(&make_sampler), "items"_a.noconvert(), "users"_a.noconvert(),
             "spans"_a.noconvert(), "batch_size"_a, "max_history"_a, "min_history"_a, "seed"_a,
             "every_target_once"_a)
        .def("fill", &SamplerHandle::fill, "step"_a, "history"_a.noconvert(),
             "length"_a.noconvert(), "target"_a.noconvert(), "user"_a.noconvert())
        .def_property_readonly("num_users",
                               [](const SamplerHandle& s) { return s.sampler->num_users(); })
        .def_property_readonly("with_replacement", [](const SamplerHandle& s) {
            return s.sampler->with_replacement();
        });
    py::class_<RingHandle>(m, "BatchRing")
        .def(py::init<std::shared_ptr<SamplerHandle>, Ids, Ids, Ids, Ids, uint64_t, int>(),
             "sampler"_a, "history"_a.noconvert(), "length"_a.noconvert(), "target"_a.noconvert(),
             "user"_a.noconvert(), "start_step"_a, "threads"_a)
        .def("next", &RingHandle::next, py::call_guard<py::gil_scoped_release>())
        .def("close", &RingHandle::close_or_abandon, py::call_guard<py::gil_scoped_release>())
        .def_readonly_static("HELD", &BatchRing::kHeld);
}
