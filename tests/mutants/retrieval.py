"""Bugs in search and what builds on it."""

from .killers import group

FOUND = "tests/kernels/test_interest_search.py::test_"
WHOLE = f"{FOUND}whole_numbers_are_found_as_the_formula_finds_them"
ODD = f"{WHOLE}[shape2-9-small]"
ONE_PIECE = f"{WHOLE}[shape2-9-one]"
MANY = f"{FOUND}float32_error_budget[shape0-1.0]"
NEAR = f"{FOUND}float32_error_budget[shape1-1.0]"
ALIKE = f"{FOUND}same_bits_for_any_threads_and_pieces"

SEARCHING = group(
    "csrc/interest_search.cpp",
    ("of equal scores the larger id", ODD,
     "(a.score == b.score && a.id < b.id)",
     "(a.score == b.score && a.id > b.id)"),
    ("the smallest interest's score", ODD,
     "most = value > most ? value : most;",
     "most = value > most ? most : value;"),
    ("the last interest is left out", ODD,
     "for (int64_t k = 1; k < num_interests; ++k) {\n"
     "            const typename V::Float value = V::load(scores[k]",
     "for (int64_t k = 1; k < num_interests - 1; ++k) {\n"
     "            const typename V::Float value = V::load(scores[k]"),
    ("the second half of a panel", MANY,
     "above |= (typename V::Bits)(most > V::all(threshold));",
     "above = (typename V::Bits)(most > V::all(threshold));"),
    ("lanes without an item", f"{FOUND}nobody_and_nothing[4-0]",
     "for (int64_t start = 0; start < count; start += kLanes) {\n"
     "            const int64_t size = std::min(kLanes, count - start);",
     "for (int64_t start = 0; start <= count; start += kLanes) {\n"
     "            const int64_t size = kLanes;"),
    ("ids of the panel before", ONE_PIECE,
     "first_id + start, group, scores.data());",
     "first_id, group, scores.data());"),
    ("another user's threshold", ALIKE,
     "best_scores<V>(own, num_interests, search.threshold(user + u), best)",
     "best_scores<V>(own, num_interests, search.threshold(user), best)"),
    ("dimensions past 64 replace the first", NEAR,
     "multiply<V, ROWS, true>(count, interests + d,",
     "multiply<V, ROWS, false>(count, interests + d,"),
    ("users beyond the block", ALIKE,
     "std::min(user + block, end)",
     "std::min(user + block - 1, end)"),
    ("seen items as they came", ODD,
     "std::sort(seen_.begin() + user * num_seen,",
     "std::sort(seen_.begin() + (user + 1) * num_seen,"),
    ("seen items of the first user", ODD,
     "const auto seen = seen_.begin() + user * num_seen_;",
     "const auto seen = seen_.begin();"),
    ("one too few are kept", MANY,
     "best.items.resize(k_);\n    best.threshold",
     "best.items.resize(k_ - 1);\n    best.threshold"),
    ("a threshold of the best", MANY,
     "best.threshold = best.items.back().score;",
     "best.threshold = std::max_element(best.items.begin(), best.items.end(),\n"
     "        [](auto& a, auto& b) { return a.score < b.score; })->score;"),
    ("not in order", ODD,
     "std::partial_sort(items.begin(), items.begin() + found,",
     "std::partial_sort(items.begin(), items.begin() + found / 2,"),
    ("nothing left is the first item", f"{FOUND}everything_seen",
     "items.resize(k_, {-kInfinity, 0, 0});",
     "items.resize(k_, {-kInfinity, 1, 0});"),
)  # fmt: skip

MUTANTS = [*SEARCHING]
