// Adam on parameters all of which move at every step: one call for all of them.
#include <pybind11/stl.h>

#include <vector>

#include "adam.hpp"
#include "bindings.hpp"
#include "finite.hpp"

namespace py = pybind11;

namespace {

using Arrays = std::vector<Array<float>>;

void check_sizes(const Arrays& arrays, const Arrays& weights, const char* name) {
    bool equal = arrays.size() == weights.size();
    for (size_t i = 0; equal && i < weights.size(); ++i)
        equal = arrays[i].size() == weights[i].size();
    require(equal, std::string(name) + ": expected as many numbers as of the weights");
}

// Parameters, their moments and the steps they have taken, kept alive together.
class DenseAdam {
  public:
    DenseAdam(Arrays weights, Arrays exp_avgs, Arrays exp_avg_sqs, Arrays steps, double beta1,
              double beta2, double eps)
        : weights_(std::move(weights)),
          exp_avgs_(std::move(exp_avgs)),
          exp_avg_sqs_(std::move(exp_avg_sqs)),
          steps_(std::move(steps)),
          hyper_{beta1, beta2, static_cast<float>(eps), nullptr, nullptr, 0} {
        check_sizes(exp_avgs_, weights_, "exp_avgs");
        check_sizes(exp_avg_sqs_, weights_, "exp_avg_sqs");
        require(steps_.size() == weights_.size(), "steps: expected one a parameter");
        for (const auto& step : steps_)
            require(step.size() == 1, "steps: expected one number each");
    }

    // False, and nothing is changed, where something in there is not finite. Without `look` it is
    // not found out (for measuring what looking costs).
    bool step(double lr, const Arrays& gradients, bool look) {
        check_sizes(gradients, weights_, "gradients");
        // What is updated then is looked at last, and is in the cache.
        if (look && !(are_finite(gradients) && are_finite(exp_avg_sqs_) && are_finite(exp_avgs_) &&
                      are_finite(weights_)))
            return false;
        for (size_t i = 0; i < weights_.size(); ++i) {
            const double t = *steps_[i].mutable_data() += 1;
            adam_step_at(weights_[i].mutable_data(), exp_avgs_[i].mutable_data(),
                         exp_avg_sqs_[i].mutable_data(), gradients[i].data(), weights_[i].size(),
                         hyper_, lr, t);
        }
        return true;
    }

  private:
    Arrays weights_, exp_avgs_, exp_avg_sqs_, steps_;
    AdamHyper hyper_;
};

}  // namespace

void register_dense_adam(py::module_& m) {
    // noconvert everywhere: a silently converted copy would swallow what is written to it.
    py::class_<DenseAdam>(m, "DenseAdam")
        .def(py::init<Arrays, Arrays, Arrays, Arrays, double, double, double>(),
             py::arg("weights").noconvert(), py::arg("exp_avgs").noconvert(),
             py::arg("exp_avg_sqs").noconvert(), py::arg("steps").noconvert(), py::arg("beta1"),
             py::arg("beta2"), py::arg("eps"))
        .def("step", &DenseAdam::step, py::arg("lr"), py::arg("gradients").noconvert(),
             py::arg("look") = true);
}
