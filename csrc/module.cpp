// Python bindings of the C++ code. Each topic registers itself; nothing is computed here.
#include <pybind11/pybind11.h>

#include "bindings.hpp"

PYBIND11_MODULE(_remi_fast_C, m) {
    m.doc() = "C++ code of remi-fast; use it through remi_fast.kernels.native";
    m.attr("INTERFACE_VERSION") = 12;  // raised whenever a signature here changes
    register_threads(m);
    register_philox(m);
    register_loader(m);
    register_adam(m);
    register_dense_adam(m);
    register_finite(m);
    register_negatives(m);
    register_ihn_loss(m);
    register_self_attentive(m);
    register_capsule_routing(m);
    register_interest_search(m);
}
