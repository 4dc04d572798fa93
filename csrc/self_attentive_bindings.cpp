#include "bindings.hpp"
#include "self_attentive.hpp"

namespace py = pybind11;

void register_self_attentive(py::module_& m) {
    // noconvert everywhere: a silently converted copy would swallow what is written to it.
    m.def(
        "tanh_project",
        [](Array<float> hidden, const Array<float>& projection, Array<float> logits) {
            require(hidden.ndim() == 2 && projection.ndim() == 2, "expected two dimensions");
            const int64_t rows = hidden.shape(0), width = hidden.shape(1), k = projection.shape(0);
            check_shape(projection, {k, width}, "projection");
            check_shape(logits, {rows, k}, "logits");
            float *h = hidden.mutable_data(), *out = logits.mutable_data();
            py::gil_scoped_release release;
            tanh_project(h, projection.data(), out, rows, width, k);
        },
        py::arg("hidden").noconvert(), py::arg("projection").noconvert(),
        py::arg("logits").noconvert());
    m.def(
        "tanh_project_backward",
        [](const Array<float>& hidden, const Array<float>& projection,
           const Array<float>& grad_logits, Array<float> grad_hidden) {
            require(hidden.ndim() == 2 && projection.ndim() == 2, "expected two dimensions");
            const int64_t rows = hidden.shape(0), width = hidden.shape(1), k = projection.shape(0);
            require(k > 0, "projection: expected at least one row");
            check_shape(projection, {k, width}, "projection");
            check_shape(grad_logits, {rows, k}, "grad_logits");
            check_shape(grad_hidden, {rows, width}, "grad_hidden");
            float* out = grad_hidden.mutable_data();
            py::gil_scoped_release release;
            tanh_project_backward(hidden.data(), projection.data(), grad_logits.data(), out, rows,
                                  width, k);
        },
        py::arg("hidden").noconvert(), py::arg("projection").noconvert(),
        py::arg("grad_logits").noconvert(), py::arg("grad_hidden").noconvert());
}
