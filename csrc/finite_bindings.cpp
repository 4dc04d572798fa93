#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "bindings.hpp"
#include "finite.hpp"

namespace py = pybind11;

namespace {

// One thread: what a step looks at is read in the time it takes to wake another.
bool are_all_finite(const std::vector<Array<float>>& arrays) {
    return std::all_of(arrays.begin(), arrays.end(), [](const Array<float>& array) {
        return all_finite(array.data(), array.size());
    });
}

}  // namespace

void register_finite(py::module_& m) { m.def("all_finite", &are_all_finite, py::arg("arrays")); }
