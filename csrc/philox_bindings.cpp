#include <algorithm>

#include "bindings.hpp"
#include "permutation.hpp"
#include "philox.hpp"

namespace py = pybind11;

namespace {

Array<uint32_t> words_of(const Array<int64_t>& index, uint32_t step, uint32_t stream,
                         uint64_t seed) {
    Array<uint32_t> out({index.size(), py::ssize_t{4}});
    for (py::ssize_t i = 0; i < index.size(); ++i) {
        const PhiloxWords words =
            random_words(static_cast<uint32_t>(index.data()[i]), step, stream, seed);
        std::copy(words.begin(), words.end(), out.mutable_data(i, 0));
    }
    return out;
}

Array<int64_t> permute(const Array<int64_t>& index, uint64_t n, uint64_t seed, uint32_t step,
                       uint32_t stream) {
    require(n >= 1 && n <= uint64_t{1} << 62, "n: expected 1 <= n <= 2^62");
    const KeyedPermutation permutation(n, seed, step, stream);
    Array<int64_t> out(index.size());
    for (py::ssize_t i = 0; i < index.size(); ++i) {
        const auto position = static_cast<uint64_t>(index.data()[i]);
        if (position >= n)
            throw std::invalid_argument(at("index", i, index.data()[i]) + ", expected it below n");
        out.mutable_data()[i] = static_cast<int64_t>(permutation(position));
    }
    return out;
}

}  // namespace

void register_philox(py::module_& m) {
    using namespace py::literals;
    m.def("random_words", &words_of, "index"_a.noconvert(), "step"_a, "stream"_a, "seed"_a);
    m.def("permute", &permute, "index"_a.noconvert(), "n"_a, "seed"_a, "step"_a,
          "stream"_a = stream::kPermutationKeys);
}
