#include <pybind11/stl.h>

#include <vector>

#include "bindings.hpp"
#include "finite.hpp"

namespace py = pybind11;

void register_finite(py::module_& m) {
    m.def("all_finite", &are_finite<std::vector<Array<float>>>, py::arg("arrays"));
}
