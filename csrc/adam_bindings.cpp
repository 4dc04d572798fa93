#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "adam.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace {

void check_ids(const int64_t* ids, int64_t n, int64_t num_rows) {
    for (int64_t i = 0; i < n; ++i)
        if (ids[i] < 0 || ids[i] >= num_rows)
            throw std::out_of_range("ids[" + std::to_string(i) + "] = " + std::to_string(ids[i]) +
                                    ", expected 0 <= id < " + std::to_string(num_rows));
}

// Floats from row to row of an array of rows without gaps.
int64_t row_stride(const StridedArray& array, int64_t rows, int64_t dim, const char* name) {
    check_shape(array, {rows, dim}, name);
    constexpr auto size = static_cast<int64_t>(sizeof(float));
    const int64_t stride = array.strides(0) / size;
    require((dim == 1 || array.strides(1) == size) && array.strides(0) == stride * size &&
                (rows == 1 || stride >= dim),
            std::string(name) + ": expected rows that are contiguous, one after the other");
    return stride;
}

// The buffers of one table and its hyperparameters, kept alive together; owns no numbers itself.
class AdamView {
  public:
    AdamView(StridedArray weight, StridedArray exp_avg, StridedArray exp_avg_sq,
             Array<int32_t> stamp, double beta1, double beta2, double eps, Array<double> step_size,
             Array<double> inv_sqrt_correction)
        : weight_(std::move(weight)),
          exp_avg_(std::move(exp_avg)),
          exp_avg_sq_(std::move(exp_avg_sq)),
          stamp_(std::move(stamp)),
          step_size_(std::move(step_size)),
          inv_sqrt_correction_(std::move(inv_sqrt_correction)) {
        require(weight_.ndim() == 2, "weight: expected 2 dimensions (rows, dim)");
        const int64_t rows = weight_.shape(0), dim = weight_.shape(1);
        require(rows <= INT32_MAX, "weight: more than 2^31 - 1 rows");
        const int64_t stride = row_stride(weight_, rows, dim, "weight");
        require(row_stride(exp_avg_, rows, dim, "exp_avg") == stride &&
                    row_stride(exp_avg_sq_, rows, dim, "exp_avg_sq") == stride,
                "moments: expected rows as far apart as those of the weight");
        require(stamp_.ndim() == 1 && stamp_.shape(0) == rows, "stamp: expected shape (rows,)");
        table = {weight_.mutable_data(),
                 exp_avg_.mutable_data(),
                 exp_avg_sq_.mutable_data(),
                 stamp_.mutable_data(),
                 rows,
                 dim,
                 stride};
        hyper = {beta1,
                 beta2,
                 static_cast<float>(eps),
                 step_size_.data(),
                 inv_sqrt_correction_.data(),
                 step_size_.size()};
        series.emplace(hyper);
    }

    void check_step(int64_t t) const {
        require(t >= 0 && t < step_size_.size() && t < inv_sqrt_correction_.size(),
                "step " + std::to_string(t) + " is beyond the step tables");
    }

    AdamTable table;
    AdamHyper hyper;
    std::optional<AdamSeries> series;
    std::mutex one_caller;  // another Python thread may call while this one has released the GIL

  private:
    StridedArray weight_, exp_avg_, exp_avg_sq_;
    Array<int32_t> stamp_;
    Array<double> step_size_, inv_sqrt_correction_;
};

int64_t gather_rows(AdamView& view, int64_t t, const GatherPlan& plan, Array<float> out,
                    bool check_moments) {
    view.check_step(t);
    check_shape(out, {static_cast<int64_t>(plan.order.size()), view.table.dim}, "out");
    float* rows = out.mutable_data();
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(view.one_caller);
    view.series->prepare(t);
    return adam_catch_up_and_gather(view.table, view.hyper, *view.series, plan, rows,
                                    check_moments);
}

void read_rows(AdamView& view, int64_t t, const Array<int64_t>& ids, Array<float> out) {
    view.check_step(t);
    check_ids(ids.data(), ids.size(), view.table.num_rows);
    check_shape(out, {ids.size(), view.table.dim}, "out");
    float* rows = out.mutable_data();
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(view.one_caller);
    view.series->prepare(t);
    adam_read(view.table, view.hyper, *view.series, ids.data(), ids.size(), rows);
}

void update_rows(AdamView& view, int64_t t, const GatherPlan& plan, const Array<float>& grads) {
    view.check_step(t);
    check_shape(grads, {static_cast<int64_t>(plan.order.size()), view.table.dim}, "grads");
    const float* gradients = grads.data();
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(view.one_caller);
    adam_update(view.table, view.hyper, plan, gradients, t);
}

void flush_rows(AdamView& view, int64_t t) {
    view.check_step(t);
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(view.one_caller);
    view.series->prepare(t);
    adam_flush(view.table, view.hyper, *view.series);
}

std::shared_ptr<GatherPlan> plan_gather(const Array<int64_t>& ids, int64_t num_rows) {
    check_ids(ids.data(), ids.size(), num_rows);
    require(ids.size() <= INT32_MAX, "ids: more than 2^31 - 1 in one gather");
    py::gil_scoped_release release;
    return std::make_shared<GatherPlan>(make_gather_plan(ids.data(), ids.size(), num_rows));
}

}  // namespace

void register_adam(py::module_& m) {
    // noconvert everywhere: a silently converted copy would swallow what is written to it.
    py::class_<GatherPlan, std::shared_ptr<GatherPlan>>(m, "GatherPlan")
        .def(py::init(&plan_gather), py::arg("ids").noconvert(), py::arg("num_rows"));
    py::class_<AdamView>(m, "AdamView")
        .def(py::init<StridedArray, StridedArray, StridedArray, Array<int32_t>, double, double,
                      double, Array<double>, Array<double>>(),
             py::arg("weight").noconvert(), py::arg("exp_avg").noconvert(),
             py::arg("exp_avg_sq").noconvert(), py::arg("stamp").noconvert(), py::arg("beta1"),
             py::arg("beta2"), py::arg("eps"), py::arg("step_size").noconvert(),
             py::arg("inv_sqrt_correction").noconvert())
        .def("gather", &gather_rows, py::arg("t"), py::arg("plan"), py::arg("out").noconvert(),
             py::arg("check_moments"))
        .def("read", &read_rows, py::arg("t"), py::arg("ids").noconvert(),
             py::arg("out").noconvert())
        .def("update", &update_rows, py::arg("t"), py::arg("plan"), py::arg("grads").noconvert())
        .def("flush", &flush_rows, py::arg("t"));
}
