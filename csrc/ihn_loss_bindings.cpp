#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bindings.hpp"
#include "ihn_loss.hpp"

namespace py = pybind11;

namespace {

template <typename T>
using Maybe = std::optional<Array<T>>;

template <typename T>
const T* read(const Maybe<T>& array, const Shape& shape, const char* name) {
    if (!array) return nullptr;
    check_shape(*array, shape, name);
    return array->data();
}

template <typename T>
T* write(Maybe<T>& array, const Shape& shape, const char* name) {
    if (!array) return nullptr;
    check_shape(*array, shape, name);
    return array->mutable_data();
}

// The roots of a small problem: as many rows of lanes as there are pairs of block and negative.
LaneRow* lane_rows(float* data) {
    require(reinterpret_cast<uintptr_t>(data) % alignof(LaneRow) == 0,
            "roots: expected memory aligned to 64 bytes");
    return reinterpret_cast<LaneRow*>(data);
}

// The tensors and options of one call, kept alive together.
class IhnCall {
  public:
    IhnCall(Array<float> interests, Array<float> target, Array<float> negatives,
            Maybe<float> routing, Maybe<int64_t> target_ids, Maybe<int64_t> negative_ids,
            Maybe<float> importance, Maybe<float> target_log_q, double beta, double log_scale,
            bool detach_weights)
        : interests_(std::move(interests)),
          target_(std::move(target)),
          negatives_(std::move(negatives)),
          routing_(std::move(routing)),
          target_ids_(std::move(target_ids)),
          negative_ids_(std::move(negative_ids)),
          importance_(std::move(importance)),
          target_log_q_(std::move(target_log_q)) {
        require(interests_.ndim() == 3 && interests_.shape(1) > 0,
                "interests: expected 3 dimensions (B, K, D), K >= 1");
        require(negatives_.ndim() == 2, "negatives: expected 2 dimensions (N, D)");
        require(target_ids_.has_value() == negative_ids_.has_value(),
                "target_ids, negative_ids: expected both or neither");
        const int64_t B = interests_.shape(0), K = interests_.shape(1), D = interests_.shape(2);
        const int64_t N = negatives_.shape(0);
        const int64_t L = routing_ && routing_->ndim() == 3 ? routing_->shape(2) : 0;
        check_shape(target_, {B, D}, "target");
        check_shape(negatives_, {N, D}, "negatives");
        inputs = {B,
                  K,
                  D,
                  N,
                  L,
                  interests_.data(),
                  target_.data(),
                  negatives_.data(),
                  read(routing_, {B, K, L}, "routing"),
                  read(target_ids_, {B}, "target_ids"),
                  read(negative_ids_, {N}, "negative_ids"),
                  read(importance_, {N}, "importance"),
                  read(target_log_q_, {B}, "target_log_q"),
                  beta,
                  log_scale,
                  detach_weights};
    }

    void forward(Array<float> loss, Array<int64_t> chosen, Maybe<float> rr, Array<float> row_stats,
                 Maybe<float> slope, Maybe<float> roots) const {
        const int64_t B = inputs.B;
        check_shape(loss, {B}, "loss");
        check_shape(chosen, {B}, "chosen");
        check_shape(row_stats, {4, B}, "row_stats");
        require(rr.has_value() == routing_.has_value(), "rr: expected with routing only");
        require(!roots || ihn_loss_can_keep_roots(inputs), "roots: too many negatives to keep");
        const IhnOutputs out{loss.mutable_data(),
                             chosen.mutable_data(),
                             write(rr, {B}, "rr"),
                             row_stats.mutable_data(),
                             write(slope, {B, inputs.D}, "slope"),
                             lane_rows(write(roots, roots_shape(), "roots"))};
        py::gil_scoped_release release;
        ihn_loss_forward(inputs, out);
    }

    void backward(const Array<int64_t>& chosen, const Array<float>& row_stats,
                  const Maybe<float>& slope, Maybe<float> roots, const Maybe<float>& grad_loss,
                  const Maybe<float>& grad_rr, Maybe<float> interests, Maybe<float> target,
                  Maybe<float> negatives, Maybe<float> routing) const {
        const int64_t B = inputs.B, K = inputs.K, D = inputs.D;
        check_shape(chosen, {B}, "chosen");
        for (int64_t i = 0; i < B; ++i)
            require(chosen.data()[i] >= 0 && chosen.data()[i] < K, "chosen: outside [0, K)");
        check_shape(row_stats, {4, B}, "row_stats");
        require(!interests || slope, "slope: expected for the gradient of the interests");
        require(!negatives || grad_loss, "grad_loss: expected for the gradient of the negatives");
        require(!routing || (grad_rr && routing_), "grad_rr, routing: expected for its gradient");
        const IhnSaved saved{chosen.data(),
                             row_stats.data(),
                             read(slope, {B, D}, "slope"),
                             read(grad_loss, {B}, "grad_loss"),
                             read(grad_rr, {B}, "grad_rr"),
                             lane_rows(write(roots, roots_shape(), "roots"))};
        const IhnGradients out{write(interests, {B, K, D}, "grad_interests"),
                               write(target, {B, D}, "grad_target"),
                               write(negatives, {inputs.N, D}, "grad_negatives"),
                               write(routing, {B, K, inputs.L}, "grad_routing")};
        py::gil_scoped_release release;
        ihn_loss_backward(inputs, saved, out);
    }

  private:
    Shape roots_shape() const { return {(inputs.B + kLanes - 1) / kLanes, inputs.N, kLanes}; }

    Array<float> interests_, target_, negatives_;
    Maybe<float> routing_;
    Maybe<int64_t> target_ids_, negative_ids_;
    Maybe<float> importance_, target_log_q_;
    IhnInputs inputs;
};

}  // namespace

void register_ihn_loss(py::module_& m) {
    m.attr("IHN_LANES") = kLanes;
    m.def("ihn_loss_available", &ihn_loss_available);
    // noconvert everywhere: a silently converted copy would swallow what is written to it.
    py::class_<IhnCall>(m, "IhnCall")
        .def(py::init<Array<float>, Array<float>, Array<float>, Maybe<float>, Maybe<int64_t>,
                      Maybe<int64_t>, Maybe<float>, Maybe<float>, double, double, bool>(),
             py::arg("interests").noconvert(), py::arg("target").noconvert(),
             py::arg("negatives").noconvert(), py::arg("routing").noconvert(),
             py::arg("target_ids").noconvert(), py::arg("negative_ids").noconvert(),
             py::arg("importance").noconvert(), py::arg("target_log_q").noconvert(),
             py::arg("beta"), py::arg("log_scale"), py::arg("detach_weights"))
        .def("forward", &IhnCall::forward, py::arg("loss").noconvert(),
             py::arg("chosen").noconvert(), py::arg("rr").noconvert(),
             py::arg("row_stats").noconvert(), py::arg("slope").noconvert(),
             py::arg("roots").noconvert())
        .def("backward", &IhnCall::backward, py::arg("chosen").noconvert(),
             py::arg("row_stats").noconvert(), py::arg("slope").noconvert(),
             py::arg("roots").noconvert(), py::arg("grad_loss").noconvert(),
             py::arg("grad_rr").noconvert(), py::arg("grad_interests").noconvert(),
             py::arg("grad_target").noconvert(), py::arg("grad_negatives").noconvert(),
             py::arg("grad_routing").noconvert());
}
