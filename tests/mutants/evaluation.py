"""Bugs in what is measured of lists, and in the choice of more diverse ones."""

from .killers import group

TESTS = "tests/retrieval/test_"
PLAIN = f"{TESTS}diversity.py::test_against_a_plain_loop[0-False-0.5]"
METRICS = f"{TESTS}metrics.py::test_"
LISTS = f"{METRICS}coverage_and_novelty_of_lists_in_parts"
BOOTSTRAP = f"{TESTS}compare.py::test_by_hand[5]"
LLOYD = f"{TESTS}categories.py::test_against_a_plain_lloyd[0-False]"
FILE = f"{TESTS}categories.py::test_items_without_category_share_one"
DETAILS = f"{TESTS}details.py::test_"

DIVERSITY = group(
    "remi_fast/retrieval/diversity.py",
    ("alike is better", PLAIN, "alpha=-coefficient", "alpha=coefficient"),
    ("only the last choice counts", PLAIN,
     "same += categories == categories", "same = categories == categories"),
    ("in float32", f"{TESTS}diversity.py::test_a_coefficient_below_the_precision_of_the_scores_"
     "decides_between_equal_ones",
     "left = scores.double()", "left = scores.clone()"),
    ("as many candidates as places", f"{DETAILS}diversity_by_hand[7]",
     "min(k * num_interests,", "min(k,"),
)  # fmt: skip
LISTED = group(
    "remi_fast/retrieval/metrics.py",
    ("pairs with nothing", f"{METRICS}diversity_by_hand",
     "size = (ranked[:, :k] > 0).sum(1)", "size = (ranked[:, :k] >= 0).sum(1)"),
    ("the padding row is an item of the catalogue", LISTS,
     "(counts[1:] > 0).mean()", "(counts > 0).mean()"),
    ("nothing is recommended", LISTS, "            counts[0] = 0\n", ""),
)  # fmt: skip
COMPARISON = group(
    "remi_fast/retrieval/compare.py",
    ("one resample for all", BOOTSTRAP, "index, resample, RESAMPLING", "index, 0, RESAMPLING"),
    ("no seed", BOOTSTRAP, "RESAMPLING, seed)", "RESAMPLING, 0)"),
    ("p of one side", BOOTSTRAP, "np.minimum(1, 2 * np.minimum", "np.minimum(1, np.minimum"),
    ("the other sign", f"{TESTS}compare.py::test_signs_and_pairing",
     "first[name] - second[name] for name", "second[name] - first[name] for name"),
)  # fmt: skip
CATEGORIES = group(
    "remi_fast/retrieval/categories.py",
    ("farther for longer centres", LLOYD, "- half).argmax", ").argmax"),
    ("centres go to nobody's place", f"{TESTS}categories.py::test_against_a_plain_lloyd[0-True]",
     "sizes[:, None] > 0, sums", "sizes[:, None] >= 0, sums"),
    ("no category is the padding's", FILE, ", len(names), dtype", ", -1, dtype"),
)  # fmt: skip
GROUPS = group(
    "remi_fast/retrieval/details.py",
    ("the longest are in no group", f"{DETAILS}groups_by_hand[7]",
     "(bottom <= length) & (length <= top)", "(bottom <= length) & (length < top)"),
    ("a third with the item itself", f"{DETAILS}popularity_groups_hold_a_third_of_the_interactions",
     "np.cumsum(counts[order]) - counts[order]", "np.cumsum(counts[order])"),
)  # fmt: skip
MUTANTS = [*DIVERSITY, *LISTED, *COMPARISON, *CATEGORIES, *GROUPS]
