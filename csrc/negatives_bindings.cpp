// Negatives: ids drawn with replacement, uniformly or by an alias table.
#include "alias.hpp"
#include "bindings.hpp"
#include "philox.hpp"

namespace py = pybind11;

namespace {

void sample_negatives(Array<int64_t> out, uint64_t num_items, uint64_t seed, uint32_t step) {
    require(num_items >= 2 && out.size() <= UINT32_MAX, "num_items or num is out of range");
    int64_t* ids = out.mutable_data();
    const int64_t num = out.size();
    py::gil_scoped_release release;
    for (int64_t j = 0; j < num; ++j) {
        const PhiloxWords words =
            random_words(static_cast<uint32_t>(j), step, stream::kNegatives, seed);
        ids[j] = 1 + static_cast<int64_t>(bounded(word64(words), num_items - 1));
    }
}

void check_table(const Array<int64_t>& threshold, const Array<int32_t>& alias) {
    require(
        threshold.size() >= 1 && threshold.size() < INT32_MAX && alias.size() == threshold.size(),
        "threshold, alias: expected two arrays of 1 to 2^31 - 2 columns");
}

void alias_table(const Array<double>& weights, Array<int64_t> threshold, Array<int32_t> alias) {
    check_table(threshold, alias);
    require(weights.size() == threshold.size(), "weights: expected one a column");
    const double* given = weights.data();
    const auto n = static_cast<int32_t>(weights.size());
    int64_t* kept = threshold.mutable_data();
    int32_t* other = alias.mutable_data();
    py::gil_scoped_release release;
    make_alias_table(given, n, kept, other);
}

void sample_by_alias(Array<int64_t> out, const Array<int64_t>& threshold,
                     const Array<int32_t>& alias, uint64_t seed, uint32_t step) {
    check_table(threshold, alias);
    require(out.size() <= UINT32_MAX, "num is out of range");
    int64_t* ids = out.mutable_data();
    const int64_t num = out.size();
    const auto n = static_cast<int32_t>(threshold.size());
    const int64_t* kept = threshold.data();
    const int32_t* other = alias.data();
    py::gil_scoped_release release;
    for (int64_t j = 0; j < num; ++j)
        ids[j] =
            1 + draw_alias(random_words(static_cast<uint32_t>(j), step, stream::kNegatives, seed),
                           n, kept, other);
}

}  // namespace

void register_negatives(py::module_& m) {
    using namespace py::literals;
    m.def("sample_negatives", &sample_negatives, "out"_a.noconvert(), "num_items"_a, "seed"_a,
          "step"_a);
    m.def("alias_table", &alias_table, "weights"_a.noconvert(), "threshold"_a.noconvert(),
          "alias"_a.noconvert());
    m.def("sample_by_alias", &sample_by_alias, "out"_a.noconvert(), "threshold"_a.noconvert(),
          "alias"_a.noconvert(), "seed"_a, "step"_a);
}
