#include <limits>

#include "bindings.hpp"
#include "interest_search.hpp"

namespace py = pybind11;

namespace {

InterestSearch make_search(const Array<float>& interests, int64_t k, const Array<int64_t>& seen) {
    require(interests.ndim() == 3, "interests: expected shape (n, K, d)");
    require(interests.shape(1) > 0 && interests.shape(2) > 0, "interests: expected K, d >= 1");
    require(k >= 1 && k < std::numeric_limits<int32_t>::max(), "k: expected 1 <= k < 2^31 - 1");
    require(seen.ndim() == 2 && seen.shape(0) == interests.shape(0), "seen: expected shape (n, s)");
    py::gil_scoped_release release;
    return InterestSearch(interests.data(), interests.shape(0), interests.shape(1),
                          interests.shape(2), k, seen.data(), seen.shape(1));
}

void add(InterestSearch& search, const Array<float>& rows, int64_t first_id) {
    require(rows.ndim() == 2 && rows.shape(1) == search.dim(), "rows: expected shape (m, d)");
    require(first_id >= search.next_id(), "first_id: expected ids that go up, from 1");
    require(first_id + rows.shape(0) <= std::numeric_limits<int32_t>::max(),
            "first_id: expected ids below 2^31 - 1");
    py::gil_scoped_release release;
    search.add(rows.data(), rows.shape(0), first_id);
}

py::tuple result(const InterestSearch& search) {
    const std::vector<py::ssize_t> shape = {search.users(), search.k()};
    Array<int64_t> ids(shape), interest(shape);
    Array<float> scores(shape);
    int64_t *ids_out = ids.mutable_data(), *interest_out = interest.mutable_data();
    float* scores_out = scores.mutable_data();
    {
        py::gil_scoped_release release;
        search.result(ids_out, scores_out, interest_out);
    }
    return py::make_tuple(ids, scores, interest);
}

}  // namespace

void register_interest_search(py::module_& m) {
    py::class_<InterestSearch>(m, "InterestSearch")
        .def(py::init(&make_search), py::arg("interests").noconvert(), py::arg("k"),
             py::arg("seen").noconvert())
        .def("add", &add, py::arg("rows").noconvert(), py::arg("first_id"))
        .def("result", &result);
}
