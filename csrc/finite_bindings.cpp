#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "finite.hpp"
#include "thread_pool.hpp"

namespace py = pybind11;

namespace {

// Puts the arrays one after the other into `out`; whether all that was copied is finite. Without
// `look` it says yes (for measuring what looking costs).
bool join(const std::vector<Array<float>>& parts, Array<float> out, bool look) {
    std::vector<const float*> from;
    std::vector<int64_t> starts{0};
    for (const auto& part : parts) {
        from.push_back(part.data());
        starts.push_back(starts.back() + part.size());
    }
    require(out.size() == starts.back(), "out: expected " + std::to_string(starts.back()) +
                                             " numbers, as the parts have, got " +
                                             std::to_string(out.size()));
    float* to = out.mutable_data();
    std::atomic<bool> finite{true};
    py::gil_scoped_release release;
    ThreadPool::instance().parallel_for(starts.back(), [&](int64_t begin, int64_t end) {
        for (size_t p = 0; p < from.size(); ++p) {
            const int64_t first = std::max(begin, starts[p]), last = std::min(end, starts[p + 1]);
            if (first >= last) continue;
            const float* source = from[p] + (first - starts[p]);
            if (!look)
                std::memcpy(to + first, source, (last - first) * sizeof(float));
            else if (!copy_finite(to + first, source, last - first))
                finite = false;
        }
    });
    return finite;
}

}  // namespace

void register_finite(py::module_& m) {
    m.def("all_finite", &are_finite<std::vector<Array<float>>>, py::arg("arrays"));
    // noconvert: a silently converted copy would swallow what is written to it.
    m.def("join", &join, py::arg("parts").noconvert(), py::arg("out").noconvert(),
          py::arg("look") = true);
}
