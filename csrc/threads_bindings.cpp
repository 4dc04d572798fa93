#include "bindings.hpp"
#include "thread_pool.hpp"

namespace py = pybind11;

void register_threads(py::module_& m) {
    m.def(
        "set_num_threads",
        [](int threads) {
            py::gil_scoped_release release;
            ThreadPool::instance().resize(threads);
        },
        py::arg("threads"));
    m.def("num_threads", [] { return ThreadPool::instance().size(); });
}
