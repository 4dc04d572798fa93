#pragma once
// What every topic of the extension offers to module.cpp, and the argument checks they share.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

void register_loader(pybind11::module_& m);
void register_adam(pybind11::module_& m);
void register_dense_adam(pybind11::module_& m);
void register_finite(pybind11::module_& m);
void register_negatives(pybind11::module_& m);
void register_ihn_loss(pybind11::module_& m);
void register_self_attentive(pybind11::module_& m);
void register_capsule_routing(pybind11::module_& m);
void register_interest_search(pybind11::module_& m);

// A contiguous NumPy array of exactly this type; anything else is refused, never converted.
template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

// Of a literal no string is made before it is needed: for loops.
inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}
