"""Bugs in search and what builds on it."""

from .killers import group

FOUND = "tests/kernels/test_interest_search.py::test_"
TILED = f"{FOUND}tiles_of_any_size_find_the_same["
SEARCHED = "tests/retrieval/test_search.py::test_"
SETTLED = f"{SEARCHED}other_products_find_the_same_items_once_float64_has_settled_it"
WHOLE = f"{FOUND}whole_numbers_are_found_as_the_formula_finds_them"
ODD = f"{WHOLE}[shape2-9-small]"
ONE_PIECE = f"{WHOLE}[shape2-9-one]"
MANY = f"{FOUND}float32_error_budget[shape0-1.0-native]"
NEAR = f"{FOUND}float32_error_budget[shape1-1.0-native]"
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
    ("lanes without an item", f"{FOUND}nobody_and_nothing[4-0-native]",
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

PARTS = "tests/retrieval/test_streamed.py::test_"
EQUAL = f"{PARTS}parts_are_what_all_are[out.parquet-h.parquet-7]"
TILES = group(
    "kernels/interest_search.py",
    ("groups by their sums", f"{TILED}shape2-134217728-one]",
     "group = groups.amax(dim=2)",
     "group = groups.sum(dim=2)"),
    ("the item after the seen one is struck out", f"{TILED}shape1-1-small]",
     "place = seen - first\n",
     "place = seen - first + 1\n"),
    ("every tile has the first ids", f"{TILED}shape1-1-small]",
     "(place + first, each.argmax(dim=1))",
     "(place + 1, each.argmax(dim=1))"),
    ("the best of the last tile", f"{TILED}shape1-1-small]",
     "order = both.scores.topk(k, dim=1).indices",
     "order = both.scores[:, k:].topk(min(k, len(piece) + 1), dim=1).indices + k"),
    ("the first users' seen items", f"{TILED}shape1-1-small]",
     "first, k, seen[some])",
     "first, k, seen[:size])"),
    ("what is not a number wins", f"{FOUND}what_is_not_a_number_is_not_retrieved[tiled]",
     "scores.nan_to_num_(nan=-math.inf,",
     "scores.nan_to_num_(nan=math.inf,"),
    ("of equal scores the larger id", f"{FOUND}of_equal_scores_the_smaller_ids_come_first",
     "by_id = found.ids.sort(dim=1).indices",
     "by_id = found.ids.sort(dim=1, descending=True).indices"),
)  # fmt: skip

SETTLING = group(
    "remi_fast/retrieval/search.py",
    ("settled in float32", SETTLED,
     "interests.double()).max",
     "interests.double()).float().max"),
    ("padding is an item", f"{SEARCHED}nothing_is_settled_where_nothing_was_found",
     "(ids == 0) | scores.isnan()",
     "scores.isnan()"),
    ("what is not a number is an item", f"{SEARCHED}nothing_is_settled_where_nothing_was_found",
     "ids.masked_fill(none, 0)",
     "ids"),
)  # fmt: skip

STREAMING = group(
    "remi_fast/retrieval/streamed.py",
    ("a part is left out", EQUAL,
     "for part in range(parts):",
     "for part in range(parts - 1):"),
    ("users in two parts", EQUAL,
     'pl.col("user_id").hash() % parts == part',
     'pl.struct(pl.all()).hash() % parts == part'),
    ("what other parts ignored is forgotten", EQUAL,
     "setattr(self, name, getattr(self, name) + value)",
     "setattr(self, name, value)"),
    ("damaged parts are taken", f"{PARTS}a_damaged_part_is_made_again[000001.parquet]",
     'if there.pop("file") != _checksums(path):',
     'if there.pop("file") is False:'),
    ("parts of any command are taken", f"{PARTS}parts_of_another_command_are_not_mixed_in[--k 8]",
     "        if self.resumed:\n            self._check_plan()",
     "        if False:\n            self._check_plan()"),
    ("the folders it is in stay", f"{PARTS}an_error_leaves_nothing[out/new/x.parquet]",
     "                files.remove_empty(self._made)\n",
     ""),
    ("the folder stays", EQUAL,
     "            shutil.rmtree(self.folder)\n        report_unknown",
     "        report_unknown"),
)  # fmt: skip

SCANNED = "tests/data/test_scan.py::test_"
SCANNING = group(
    "remi_fast/data/scan.py",
    ("leading zeros are lost", f"{SCANNED}is_what_the_reader_reads[leading zeros stay text-9]",
     'name == "timestamp" or not found[f"{name} other digits"]',
     "True"),
    ("the piece after is under its first line",
     f"{SCANNED}is_what_the_reader_reads[numbers-1]",
     "yield header + lines + file.readline()",
     "yield lines + file.readline()"),
    ("space stays", f"{SCANNED}is_what_the_reader_reads[space around, and a mark-9]",
     "pl.all().str.strip_chars().replace",
     "pl.all().replace"),
    ("NUL is text", f"{SCANNED}complains_as_the_reader_does[NUL]",
     'any(found[name] or found[f"{name} nul"] for name in names)',
     "any(found[name] for name in names)"),
    ("fields are not counted", f"{SCANNED}complains_as_the_reader_does[a field less]",
     "        if lacking:\n            check_fields(path, suffix)\n",
     ""),
    ("half a number is text", f"{SCANNED}complains_as_the_reader_does[half a number]",
     '(found[f"{name} no number"] or not found[f"{name} no int"])',
     "True"),
    ("nulls in Parquet pass", f"{SCANNED}nulls_in_parquet[item_id]",
     "not any(row.values())",
     "True"),
)  # fmt: skip

ENGINE = "tests/retrieval/test_faiss_index.py::test_"
TUNED = f"{ENGINE}is_tuned_to_the_recall_that_is_promised"
APPROXIMATE = group(
    "remi_fast/retrieval/faiss_index.py",
    ("never tuned", f"{TUNED}[IVF64,Flat]",
     "if recall >= TARGET_RECALL:",
     "if True:"),
    ("candidates that are there twice", f"{TUNED}[Flat]",
     "hidden = repeated | (ids == 0)",
     "hidden = ids == 0"),
    ("seen items stay", f"{ENGINE}flat_is_exact_with_seen_items_too",
     "hidden |= _is_seen(ids, seen)",
     "pass"),
    ("no candidates in the place of seen ones", f"{ENGINE}flat_is_exact_with_seen_items_too",
     "k + hidden), k, seen)",
     "k), k, seen)"),
    ("codes are not rescored widely", f"{TUNED}[IVF32,PQ4]",
     "k * self.effort.get(CANDIDATES, 1)",
     "k"),
    ("ids of the index are a row too low", f"{ENGINE}flat_is_exact_with_seen_items_too",
     "np.arange(1, items.num_items)",
     "np.arange(0, items.num_items - 1)"),
)  # fmt: skip

REQUESTS = "tests/retrieval/test_recommend.py::test_"
REQUESTING = group(
    "remi_fast/retrieval/recommend.py",
    ("seen items of a filter by their ids", f"{REQUESTS}a_filter_is_the_list_without_the_others"
     "[True-chosen0]",
     "seen = None if seen is None else request.items.positions(seen)",
     "pass"),
    ("ids among the chosen", f"{REQUESTS}a_filter_is_the_list_without_the_others[False-chosen0]",
     "found = found._replace(ids=request.items.ids[found.ids])",
     "pass"),
    ("diversity is dropped", f"{REQUESTS}diversity_takes_from_other_categories",
     "if request.categories is None:\n            return found",
     "if True:\n            return TopK(*(part[:, :k] for part in found))"),
)  # fmt: skip

MUTANTS = [*SEARCHING, *TILES, *SETTLING, *STREAMING, *SCANNING, *APPROXIMATE, *REQUESTING]
