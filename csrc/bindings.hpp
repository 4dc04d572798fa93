#pragma once
// What every topic of the extension offers to module.cpp, and the argument checks they share.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

void register_threads(pybind11::module_& m);
void register_philox(pybind11::module_& m);
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

// The same, of any strides.
using StridedArray = pybind11::array_t<float, 0>;
using Shape = std::vector<int64_t>;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

// Of a literal no string is made before it is needed: for loops.
inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

inline std::string at(const char* name, int64_t i, int64_t value) {
    return std::string(name) + "[" + std::to_string(i) + "] = " + std::to_string(value);
}

// As Python writes it.
inline std::string shape_text(const Shape& shape) {
    std::string text;
    for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

inline void check_shape(const pybind11::array& array, const Shape& expected, const char* name) {
    const Shape got(array.shape(), array.shape() + array.ndim());
    if (got != expected)
        throw std::invalid_argument(std::string(name) + ": got shape " + shape_text(got) +
                                    ", expected " + shape_text(expected));
}
