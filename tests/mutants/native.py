"""Bugs in the C++ extension: Adam, its series, loader, loss, extractor, draws, thread pool."""

from .killers import DRAWS, group

ADAM = "tests/kernels/test_deferred_adam.py::test_"
NATIVE = "tests/kernels/test_multi_interest_ihn_loss_native.py::test_"
EXTRACTOR = "tests/kernels/test_self_attentive.py::test_"
LOADER = "tests/data/test_loader.py::test_"
NON_FINITE = "tests/training/test_non_finite.py::test_"
ALIAS = f"{DRAWS}an_alias_table_is_the_distribution_of_its_weights[257-zipf]"

GATHER = f"{ADAM}gather_gives_each_occurrence_its_row_and_brings_it_up_to_date[native]"
REPLAY = f"{ADAM}agrees_with_the_replay_to_a_millionth_of_the_movement[native]"
AGAIN = f"{ADAM}rows_touched_again[native-10]"
SUMMED = f"{ADAM}gradients_of_a_row_are_summed[native-all equal]"
BESIDE = f"{ADAM}rows_with_their_moments_behind_them_have_the_same_bits[native]"
DENSE_ADAM = "tests/test_optim.py::test_follows_dense_adam_through_a_model[False-native]"
UNIFORM = f"{LOADER}formulas[0-uniform-1]"
EPOCH = f"{LOADER}formulas[0-epoch-1]"
HELD = f"{LOADER}ring_views_without_copies_and_keeps_what_is_held"
SAME_BITS = (
    "tests/reliability/test_same_bits.py::test_batches_are_the_same_for_any_number_of_threads"
)
MOMENT = f"{NON_FINITE}a_moment_of_any_row_is_looked_at["
DENSE = "tests/training/test_dense_adam.py::test_"
JOINED = f"{NON_FINITE}gradients_are_joined_and_looked_at"
REFUSED = f"{DENSE}what_is_not_finite_changes_nothing["
ELEMENTS = f"{NON_FINITE}every_element_is_looked_at[1]"
SIZE = f"{NATIVE}training_size"
BUDGET = f"{EXTRACTOR}float32_error_budget[0.1-shape0]"
TANH = f"{EXTRACTOR}tanh_is_accurate_everywhere"


def missed(tau, gap):
    return f"{ADAM}series_of_missed_steps[{tau}-{gap}]"


def chunks(beta=1.0, names="plain"):
    return f"{NATIVE}more_negatives_than_a_chunk[{names}-{beta}]"


UPDATING = group(
    "csrc/adam.cpp",
    ("rows move the wrong way", missed(1, 10),
     "w[i] -= m[i] / y * (t0",
     "w[i] += m[i] / y * (t0"),
    ("eps ignored", missed(1024, 300),
     "const float h = 1.0f - eps / y;",
     "const float h = 1.0f;"),
    ("a gradient that is not squared", SUMMED,
     "rest2 * g[i] * g[i]",
     "rest2 * g[i]"),
    ("second moment is not corrected", AGAIN,
     "(std::sqrt(v[i]) * inv_sqrt_correction + eps)",
     "(std::sqrt(v[i]) + eps)"),
    ("first moment decays as the second", AGAIN,
     "const float a = m[i] * decay.exp_avg, b",
     "const float a = m[i] * decay.exp_avg_sq, b"),
    ("corrections of the other moment", f"{DENSE}as_exact_as_torch[1.0]",
     "t * std::log(hyper.beta2)",
     "t * std::log(hyper.beta1)"),
    ("moments do not decay", AGAIN,
     "decay_moments(exp_avg, exp_avg_sq, dim(), decay);",
     "decay_moments(exp_avg, exp_avg_sq, dim(), {1.0f, 1.0f});"),
    ("moments that are looked at do not decay", DENSE_ADAM,
     "decay_and_look(exp_avg, exp_avg_sq, largest_.data(), dim(), decay);",
     "decay_and_look(exp_avg, exp_avg_sq, largest_.data(), dim(), {1.0f, 1.0f});"),
    ("a row is brought up to date twice", GATHER,
     "if (table.stamp[row] != 0) table.stamp[row] = static_cast<int32_t>(series.step());",
     ""),
    ("reading is late", DENSE_ADAM,
     "table.stamp[ids[i]]);",
     "0);"),
    ("the flush leaves rows behind", DENSE_ADAM,
     "if (table.stamp[row] == 0) continue;",
     "if (table.stamp[row] < series.step() - 5) continue;"),
    ("padding is updated", f"{ADAM}padding_row_is_frozen[native]",
     "            if (row == 0) continue;\n            const float* g",
     "            const float* g"),
    ("the second occurrence is left out", SUMMED,
     "for (int32_t o = plan.starts[u] + 1; o < plan.starts[u + 1]; ++o) {\n"
     "                    const float* more",
     "for (int32_t o = plan.starts[u] + 2; o < plan.starts[u + 1]; ++o) {\n"
     "                    const float* more"),
    ("gradients in the order of the rows", f"{ADAM}gradients_of_a_row_are_summed[native-reversed]",
     "grads + plan.order[plan.starts[u]] * dim",
     "grads + plan.starts[u] * dim"),
    ("copies in the order of the rows", GATHER,
     "std::memcpy(out + plan.order[o] * dim",
     "std::memcpy(out + o * dim"),
    ("a first moment is not looked at", f"{MOMENT}native-late-exp_avg]",
     "std::max(magnitude(a), magnitude(b))",
     "magnitude(b)"),
    ("a second moment is not looked at", f"{MOMENT}native-late-exp_avg_sq]",
     "std::max(magnitude(a), magnitude(b))",
     "magnitude(a)"),
    ("a second moment of -infinity is small", f"{MOMENT}native-late-exp_avg_sq]",
     "v[i] = std::fabs(b) < kNegligibleMoment ? 0.0f : b;",
     "v[i] = b < kNegligibleMoment ? 0.0f : b;"),
    ("only late rows are looked at", f"{MOMENT}native-up to date-exp_avg]",
     "raise_magnitudes(largest_.data(), exp_avg, dim());",
     ""),
    ("the stamp of the step before", AGAIN,
     "table.stamp[row] = static_cast<int32_t>(t);",
     "table.stamp[row] = static_cast<int32_t>(t - 1);"),
    ("rows of a read are taken to be dense", BESIDE,
     "const int64_t offset = ids[i] * table.stride;",
     "const int64_t offset = ids[i] * dim;"),
    ("rows of an update are taken to be dense", BESIDE,
     "const int64_t offset = row * table.stride;\n            adam_step",
     "const int64_t offset = row * dim;\n            adam_step"),
    ("touched rows are written", f"{ADAM}large_tables_have_the_bits_of_small_ones[True]",
     "void touch(const float* x) { (void)*static_cast<const volatile float*>(x); }",
     "void touch(const float* x) { *const_cast<volatile float*>(x) = 1.0f; }"),
)  # fmt: skip

APART = group(
    "csrc/adam_bindings.cpp",
    ("a first moment at another distance", 
     "tests/kernels/test_adam_state.py::test_rows_that_are_not_equally_far_apart_are_refused",
     'require(row_stride(exp_avg_, rows, dim, "exp_avg") == stride &&',
     'require(true ||'),
)  # fmt: skip

SERIES = group(
    "csrc/adam_series.cpp",
    ("third term's sign", f"{ADAM}series_of_missed_steps_for_any_betas[native-betas0-301-2000]",
     "t0 * (third - 3 * second + 2)",
     "t0 * (3 * second - third - 2)"),
    ("no second term", missed(160, 99),
     "static_cast<float>(t0 * (second - 1)),",
     "0.0f,"),
    ("segments grow too fast", f"{ADAM}series_of_missed_steps_for_any_betas[native-betas0-1-200]",
     "kSegmentGrowth = 0.2",
     "kSegmentGrowth = 5.0"),
    ("last steps of a segment left out", missed(1, 10),
     "for (int64_t l = 0; k + l < n; ++l) {",
     "for (int64_t l = 0; k + l + 1 < n; ++l) {"),
    ("a step early", missed(1, 10),
     "hyper_.step_size + tau + first + 1;",
     "hyper_.step_size + tau + first;"),
    ("decay of a step more", AGAIN,
     "? decay_[gap] :",
     "? decay_[gap + 1 < static_cast<int64_t>(decay_.size()) ? gap + 1 : gap] :"),
    ("corrections change slowly from the start", REPLAY,
     "first_ = std::max(settled_, t - horizon_ - kTabledStamps);",
     "first_ = std::max<int64_t>(1, t - horizon_ - kTabledStamps);"),
    ("series of another step", REPLAY,
     "    make_by_gap();\n    if",
     "    if (by_gap_.empty()) make_by_gap();\n    if"),
    ("too short a horizon", missed(1024, 300),
     "kNegligible = 6e-8",
     "kNegligible = 6e-2"),
)  # fmt: skip

LOADING = group(
    "csrc/loader.cpp",
    ("targets drawn by the users' words", UNIFORM,
     "step, stream::kTargets,",
     "step, stream::kUsers,"),
    ("targets too early", UNIFORM,
     "static_cast<int64_t>(s.rank) + options_.min_history;",
     "static_cast<int64_t>(s.rank);"),
    ("the target is in its history", UNIFORM,
     "std::memcpy(history, target - length,",
     "std::memcpy(history, target - length + 1,"),
    ("an item of another batch in the padding", UNIFORM,
     "std::fill(history + length, history + width, 0);",
     "std::fill(history + std::min(length + 1, width), history + width, 0);"),
    ("oldest items of a history", f"{LOADER}other_widths_and_least_histories[4-3]",
     "std::memcpy(history, target - length,",
     "std::memcpy(history, target - before,"),
    ("the span of the target before", EPOCH,
     "while (targets_before_[row + 1] <= targets[i]) ++row;",
     "while (targets_before_[row + 1] < targets[i]) ++row;"),
    ("every epoch in the same order", f"{LOADER}epoch_holds_every_target_once",
     "static_cast<uint32_t>(epoch));",
     "0);"),
    ("every chunk the same", f"{LOADER}batches_larger_than_a_chunk",
     "random_words(static_cast<uint32_t>(b), step, stream::kTargets",
     "random_words(static_cast<uint32_t>(b - begin), step, stream::kTargets"),
    ("replacement where all fit", f"{LOADER}different_users_in_a_batch_or_replacement",
     "num_users() < static_cast<uint64_t>(options_.batch_size)",
     "num_users() <= static_cast<uint64_t>(options_.batch_size)"),
    ("a batch that is held is written", HELD,
     "ahead_(slots_.size() - kHeld)",
     "ahead_(slots_.size())"),
    ("a slot stays ready", f"{SAME_BITS}[epoch]",
     "    ready_[step % slots_.size()] = false;\n",
     ""),
    ("the steps of the first slots", EPOCH,
     "sampler_.fill(step, slots_[step % slots_.size()]);",
     "sampler_.fill(step % slots_.size(), slots_[step % slots_.size()]);"),
)  # fmt: skip

ELIGIBLE = group(
    "csrc/loader_bindings.cpp",
    ("users without a target", f"{LOADER}different_users_in_a_batch_or_replacement",
     "if (end - start > min_history)",
     "if (end - start >= min_history)"),
)  # fmt: skip

RANDOM = [
    *group(
        "csrc/permutation.hpp",
        ("one key for two rounds", "tests/kernels/test_permutation.py::test_bijection_the_same_in_"
         "cpp[5]",
         "mix(high, keys_[round + 1], low_bits_)",
         "mix(high, keys_[round], low_bits_)"),
    ),
    *group(
        "csrc/philox.hpp",
        ("another constant for the key's high word",
         "tests/kernels/test_philox.py::test_cpp_draws_the_same_words[0-1]",
         "key1 += 0xBB67AE85;",
         "key1 += 0xBB67AE84;"),
    ),
    *group(
        "csrc/alias.hpp",
        ("a word that chose the column, too", f"{DRAWS}backends_draw_alike_by_a_table[zipf]",
         "return words[2] < threshold[column]",
         "return words[1] < threshold[column]"),
        ("the rich give the wrong share", ALIAS,
         "share[rich] -= 1 - share[poor];",
         "share[rich] -= share[poor];"),
    ),
    *group(
        "csrc/negatives_bindings.cpp",
        ("padding is drawn", f"{DRAWS}backends_agree[1280-1000]",
         "ids[j] = 1 + static_cast<int64_t>(bounded(word64(words), num_items - 1));",
         "ids[j] = static_cast<int64_t>(bounded(word64(words), num_items));"),
    ),
]  # fmt: skip

MAGNITUDE = group(
    "csrc/finite.hpp",
    ("infinity is finite", ELEMENTS,
     "kInfiniteMagnitude = 0x7f800000u",
     "kInfiniteMagnitude = 0x7f800001u"),
    ("negative infinity is small", ELEMENTS,
     "return bits & 0x7fffffffu;",
     "return bits >> 31 ? 0 : bits;"),
)  # fmt: skip

FINITE = group(
    "csrc/finite.cpp",
    ("the last element is not looked at", ELEMENTS,
     "int64_t end = n; end > 0",
     "int64_t end = n - 1; end > 0"),
    ("the first block is not looked at", f"{NON_FINITE}every_element_is_looked_at[16384]",
     "end > 0; end -= kBlock",
     "end > kBlock; end -= kBlock"),
    ("elements before the last block are not looked at",
     f"{NON_FINITE}every_element_is_looked_at[16384]",
     "i = std::max<int64_t>(end - kBlock, 0)",
     "i = std::max<int64_t>(end - kBlock / 2, 0)"),
    ("what is copied last is not looked at", f"{JOINED}[dtype0-sizes2]",
     "largest = std::max(largest, magnitude(from[i]));\n        to[i]",
     "if (i + 1 < n) largest = std::max(largest, magnitude(from[i]));\n        to[i]"),
)  # fmt: skip

JOIN = group(
    "csrc/finite_bindings.cpp",
    ("a part goes to where it is itself", f"{JOINED}[dtype0-sizes2]",
     "copy_finite(to + first, source",
     "copy_finite(to + (first - starts[p]), source"),
    ("a range begins with the part", f"{JOINED}[dtype0-sizes3]",
     "from[p] + (first - starts[p])",
     "from[p]"),
    ("only the last range counts", f"{JOINED}[dtype0-sizes3]",
     "                finite = false;",
     "                finite = last < starts.back();"),
)  # fmt: skip

DENSE_STEP = group(
    "csrc/dense_adam_bindings.cpp",
    ("gradients are not looked at", f"{REFUSED}gradient-3-native]",
     "are_finite(gradients) &&",
     ""),
    ("weights are not looked at", f"{REFUSED}weight-3-native]",
     "&&\n                      are_finite(weights_)))",
     "))"),
    ("first moments are not looked at", f"{REFUSED}exp_avg-3-native]",
     "&& are_finite(exp_avgs_) &&",
     "&&"),
    ("second moments are not looked at", f"{REFUSED}exp_avg_sq-3-native]",
     "are_finite(exp_avg_sqs_) &&",
     ""),
    ("the corrections of the step before", f"{DENSE}as_exact_as_torch[1.0]",
     "*steps_[i].mutable_data() += 1;",
     "(*steps_[i].mutable_data() += 1) - 1;"),
    ("arrays of another size", f"{DENSE}the_extension_refuses_arrays_that_do_not_fit",
     "equal = arrays[i].size() == weights[i].size();",
     "equal = arrays[i].size() <= weights[i].size();"),
)  # fmt: skip

EXTRACTING = group(
    "csrc/self_attentive.cpp",
    ("tanh's slope without a square", BUDGET,
     "1.0f - hidden[j] * hidden[j]",
     "1.0f - hidden[j]"),
    ("projection's stride", BUDGET,
     "grad_logits[k] * projection[k * width + j]",
     "grad_logits[k] * projection[j * num_interests + k]"),
    ("a term of the series lost", TANH,
     "p = p * r + 1.0f / 24;",
     "p = p * r;"),
    ("tanh is even", TANH,
     "return std::copysign(e / (e + 2.0f), x);",
     "return e / (e + 2.0f);"),
)  # fmt: skip

LOSS = group(
    "csrc/ihn_loss.cpp",
    ("the smallest score is taken off", f"{NATIVE}extreme_and_equal_scores[1.0]",
     "maximum[v] = value > maximum[v] ? value : maximum[v];",
     "maximum[v] = value < maximum[v] ? value : maximum[v];"),
    ("hits are not masked", chunks(0.37, "masked-log_q"),
     "if (target_ids[u] == in.negative_ids[begin + j]) scores",
     "if (target_ids[u] == -2) scores"),
    ("sums of a chunk rescaled the wrong way", chunks(),
     "static_cast<double>(old_base.lane[u]) - s.base.lane[u];",
     "s.base.lane[u] - static_cast<double>(old_base.lane[u]);"),
    ("sums of the first chunk as they were", chunks(),
     "        if (begin > 0) rescale(in.beta, old_base, s);\n",
     ""),
    ("softplus is cut", SIZE,
     "(margin > 0 ? margin : 0) + std::log1p(small);",
     "(margin > 0 ? margin : 0) + small;"),
    ("weight factor without gain", SIZE,
     "saved.row_stats[2 * in.B + user] * gain;",
     "saved.row_stats[2 * in.B + user];"),
    ("gradient goes to the first interest", SIZE,
     "interests[chosen * in.D + d] = gain * slope[d];",
     "interests[d] = gain * slope[d];"),
    ("the last of equal interests", f"{NATIVE}the_first_of_equal_interests_is_chosen",
     "found > *score ||",
     "found >= *score ||"),
    ("weights' slope added", SIZE,
     "value -= V::load(weight_factor.lane + lane) * weight;",
     "value += V::load(weight_factor.lane + lane) * weight;"),
    ("target's gradient the other way", SIZE,
     "const float strength = -gain * saved",
     "const float strength = gain * saved"),
    ("no negatives are a loss", f"{NATIVE}users_without_negatives_lose_nothing[1.0]",
     "static_cast<float>(empty ? 0 : loss);",
     "static_cast<float>(loss);"),
    ("proposal is not in the slope", chunks(0.37, "masked-log_q"),
     "V::store(to[j].lane + lane, value * importance);",
     "V::store(to[j].lane + lane, value);"),
    ("queries of the first interests", SIZE,
     "in.interests + (user * in.K + saved.chosen[user]) * in.D;",
     "in.interests + user * in.K * in.D;"),
    ("gradients of the last block of users alone", SIZE,
     "multiply<V, ROWS, true>(count, tile->lane",
     "multiply<V, ROWS, false>(count, tile->lane"),
)  # fmt: skip

REGULARIZER = group(
    "csrc/routing.hpp",
    ("variance is not squared", SIZE,
     "total += variance * variance;",
     "total += variance;"),
    ("gradient is not centred", SIZE,
     "strength * (routing[l] - found.mean)",
     "strength * routing[l]"),
    ("every interest is the first", SIZE,
     "spread_of(routing + k * length, length).squares / dim",
     "spread_of(routing, length).squares / dim"),
)  # fmt: skip

LANES = group(
    "csrc/lanes.hpp",
    ("what is left of the rows is left out", f"{NATIVE}one_of_the_two_results_is_used[0]",
     "if constexpr (ROWS > 1)",
     "if constexpr (ROWS > 2)"),
    ("what is left of a row is left out", TANH,
     "for (; j < n; ++j) sums[j % kSums]",
     "for (; j + 1 < n; ++j) sums[j % kSums]"),
)  # fmt: skip

THREADS = group(
    "csrc/thread_pool.hpp",
    ("the last row of a range is left out", f"{ADAM}same_bits_for_any_number_of_threads",
     "n_ * (part + 1) / parts_);",
     "n_ * (part + 1) / parts_ - (part + 1 < parts_));"),
)  # fmt: skip

MUTANTS = [
    *UPDATING,
    *APART, *SERIES, *LOADING, *ELIGIBLE, *RANDOM, *MAGNITUDE, *FINITE, *JOIN, *DENSE_STEP,
    *EXTRACTING, *LOSS, *REGULARIZER, *LANES, *THREADS,
]  # fmt: skip
