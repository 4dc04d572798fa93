#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "bindings.hpp"
#include "finite.hpp"
#include "thread_pool.hpp"

namespace py = pybind11;

namespace {

constexpr int64_t kBlock = 1 << 14;  // floats looked at by one call

bool are_all_finite(const std::vector<Array<float>>& arrays) {
    struct Block {
        const float* values;
        int64_t size;
    };
    std::vector<Block> blocks;
    for (const Array<float>& array : arrays)
        for (int64_t begin = 0; begin < array.size(); begin += kBlock)
            blocks.push_back({array.data() + begin, std::min(kBlock, array.size() - begin)});
    py::gil_scoped_release release;
    std::atomic<bool> finite{true};
    ThreadPool::instance().parallel_for(static_cast<int64_t>(blocks.size()),
                                        [&](int64_t begin, int64_t end) {
                                            for (int64_t b = begin; b < end; ++b)
                                                if (!all_finite(blocks[b].values, blocks[b].size))
                                                    finite = false;
                                        });
    return finite;
}

}  // namespace

void register_finite(py::module_& m) { m.def("all_finite", &are_all_finite, py::arg("arrays")); }
