#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings.hpp"
#include "capsule_routing.hpp"

namespace py = pybind11;

namespace {

template <typename T>
CapsuleRows<T> rows_of(T* data, const StridedArray& array, const CapsuleSizes& s,
                       const char* name) {
    require(array.ndim() == 4 && array.shape(0) == s.users &&
                (array.shape(1) == 1 || array.shape(1) == s.interests) &&
                array.shape(2) == s.positions && array.shape(3) == s.dim,
            std::string(name) + ": expected shape (B, K or 1, L, d)");
    require(s.dim == 1 || array.size() == 0 || array.strides(3) == sizeof(float),
            std::string(name) + ": expected vectors without gaps");
    const auto stride = [&](int i) {
        return array.shape(i) == 1 ? 0 : array.strides(i) / static_cast<int64_t>(sizeof(float));
    };
    return {data, stride(0), stride(1), stride(2)};
}

CapsuleInputs inputs_of(const StridedArray& votes, const Array<int64_t>& length,
                        const Array<float>& logits, const Array<float>& interests,
                        const Array<float>& routing) {
    require(interests.ndim() == 3 && routing.ndim() == 3, "expected three dimensions");
    const CapsuleSizes s{interests.shape(0), interests.shape(1), routing.shape(2),
                         interests.shape(2)};
    require(routing.shape(0) == s.users && routing.shape(1) == s.interests && s.positions > 0,
            "routing: expected shape (B, K, L), L > 0");
    require(length.ndim() == 1 && length.shape(0) == s.users, "length: expected shape (B,)");
    require(logits.ndim() == 3 && (logits.shape(0) == 1 || logits.shape(0) == s.users) &&
                logits.shape(1) == s.interests && logits.shape(2) == s.positions,
            "logits: expected shape (B or 1, K, L)");
    return {s, rows_of(votes.data(), votes, s, "votes"), length.data(), logits.data(),
            logits.shape(0) == 1 ? 0 : s.interests * s.positions};
}

bool same_shape(const Array<float>& a, const Array<float>& b) {
    return a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape());
}

void forward(const StridedArray& votes, const Array<int64_t>& length, const Array<float>& logits,
             Array<float> interests, Array<float> routing) {
    const CapsuleInputs in = inputs_of(votes, length, logits, interests, routing);
    float *out = interests.mutable_data(), *weights = routing.mutable_data();
    py::gil_scoped_release release;
    capsule_routing(in, out, weights);
}

void backward(const StridedArray& votes, const Array<int64_t>& length, const Array<float>& logits,
              const Array<float>& routing, const Array<float>& grad_interests,
              const std::optional<Array<float>>& grad_routing, StridedArray grad_votes) {
    const CapsuleInputs in = inputs_of(votes, length, logits, grad_interests, routing);
    require(!grad_routing || same_shape(*grad_routing, routing),
            "grad_routing: expected (B, K, L)");
    require(grad_votes.ndim() == 4 && grad_votes.shape(1) == votes.shape(1),
            "grad_votes: expected the shape of votes");
    const CapsuleGradients gradients{
        routing.data(), grad_interests.data(), grad_routing ? grad_routing->data() : nullptr,
        rows_of(grad_votes.mutable_data(), grad_votes, in.sizes, "grad_votes")};
    py::gil_scoped_release release;
    capsule_routing_backward(in, gradients);
}

}  // namespace

void register_capsule_routing(py::module_& m) {
    // noconvert everywhere: a silently converted copy would swallow what is written to it.
    m.def("capsule_routing", &forward, py::arg("votes").noconvert(), py::arg("length").noconvert(),
          py::arg("logits").noconvert(), py::arg("interests").noconvert(),
          py::arg("routing").noconvert());
    m.def("capsule_routing_backward", &backward, py::arg("votes").noconvert(),
          py::arg("length").noconvert(), py::arg("logits").noconvert(),
          py::arg("routing").noconvert(), py::arg("grad_interests").noconvert(),
          py::arg("grad_routing").noconvert(), py::arg("grad_votes").noconvert());
}
