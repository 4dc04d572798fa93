"""Bugs in models, losses, optimizer, training loop, checkpoints and configuration."""

from .killers import group

MODELS = "tests/models/test_models.py::test_"
CANDIDATES = "tests/training/test_candidates.py::test_"
DIAGNOSTICS = "tests/training/test_diagnostics.py::test_"
CHECKPOINT = "tests/training/test_checkpoint.py::test_"
TRAINER = "tests/training/test_trainer.py::test_"
NON_FINITE = "tests/training/test_non_finite.py::test_"
SOFT = "tests/training/test_objective.py::test_"
ONE_LEARNS = f"{SOFT}only_the_drawn_interest_learns_and_rr_is_of_all[ihn-1.0]"
STEPS = "tests/training/test_step.py::test_steps_are_those_of_plain_pytorch"
OPTIM = "tests/test_optim.py::test_"
LOSSES = "tests/test_losses.py::test_"
ERRORS = "tests/test_config.py::test_errors"

REMI_LOSS = f"{LOSSES}remi_loss[False-1.0-100.0-reference]"
GRU = f"{MODELS}gru_is_read_at_the_last_real_item"
MEAN = f"{MODELS}the_mean_is_over_the_real_items"
MIND = f"{MODELS}mind_shares_its_matrix_and_draws_its_logits"
DROPOUT = f"{MODELS}dropout_is_for_training_and_a_function_of_the_step"
POPULARITY = f"{CANDIDATES}popularity_is_to_a_power_and_what_never_occurred_is_not_drawn[0.5]"
MIXED = f"{CANDIDATES}mixed_takes_both_and_their_mixture"
AS_DRAWN = f"{CANDIDATES}a_step_trains_on_the_candidates_as_they_were_drawn"
SHARDS = f"{CHECKPOINT}groups_of_any_shard_size_read_back[100]"
UP_TO_DATE = f"{CHECKPOINT}saving_changes_nothing_and_weights_are_up_to_date"
CONTINUES = f"{CHECKPOINT}training_continues_from_shards_with_the_same_bits"
DENSE_ADAM = f"{OPTIM}follows_dense_adam_through_a_model[False-native]"
MERGED = f"{OPTIM}merged_gradients_are_clipped_as_dense_adam_clips_them[3]"
FORGOTTEN = f"{OPTIM}rows_without_gradient_and_forgotten_rows_do_not_move"


def published(name, parameter, std):
    return f"{MODELS}published_initialisation[{name}-{parameter}-{std}]"


LOSS = group(
    "remi_fast/losses.py",
    ("regularizer of a batch of 1", REMI_LOSS,
     "return PUBLISHED_BATCH * rr_lambda",
     "return rr_lambda"),
    ("regularizer summed over the batch", REMI_LOSS,
     "rr_weight(rr_lambda) * rr.mean()",
     "rr_weight(rr_lambda) * rr.sum()"),
    ("regularizer taken off", REMI_LOSS,
     "return ihn.mean() + rr_weight",
     "return ihn.mean() - rr_weight"),
    ("padding counts in the sampling rate", f"{LOSSES}gbce_is_the_published_formula[0.75-False]",
     "number / (num_items - 2)",
     "number / (num_items - 1)"),
    ("a hit counts as a term", f"{LOSSES}gbce_is_the_published_formula[0.75-True]",
     "(1 + other.sum(dim=1))",
     "(1 + number)"),
    ("gbce without its weight", f"{LOSSES}gbce_is_the_published_formula[0.75-False]",
     "positive = beta * softplus",
     "positive = softplus"),
    ("the same negatives at every step",
     f"{LOSSES}the_module_draws_the_negatives_of_the_step[reference]",
     "step=0 if step is None else step",
     "step=0"),
    ("hits of the module are not masked", f"{LOSSES}masked_hits_have_no_part",
     "mask_hits=self.mask_hits",
     "mask_hits=False"),
)  # fmt: skip

TABLE = group(
    "remi_fast/models/item_table.py",
    ("padding has a vector", DENSE_ADAM,
     "        weight[0] = 0\n",
     ""),
    ("looking is training", f"{OPTIM}reading_under_no_grad_is_not_training",
     "if self.source is not None and torch.is_grad_enabled():",
     "if self.source is not None:"),
    ("rows are read late", DENSE_ADAM,
     "return self.source.read(ids)",
     "return self.weight.detach()[ids.long()]"),
    ("variance of one over d", published("dnn", "table.weight", "0.1767766952966369"),
     "math.sqrt(2 / dim) if std is None",
     "math.sqrt(1 / dim) if std is None"),
)  # fmt: skip

SINGLE_VECTOR = group(
    "remi_fast/models/single_vector.py",
    ("mean over the padding, too", MEAN,
     "length.clamp_min(1)[:, None]",
     "history.shape[1]"),
    ("padding is not masked", MEAN,
     "return history.masked_fill(padding[:, :, None], 0.0)",
     "return history"),
    ("linear layer the other way", MEAN,
     "(mean @ self.weight.T)",
     "(mean @ self.weight)"),
    ("read a step too late", GRU,
     "(length.long() - 1).clamp_min(0)",
     "length.long().clamp_max(history.shape[1] - 1)"),
    ("an empty history is the first item", GRU,
     "vector = self.linear(last) * (length > 0)[:, None]",
     "vector = self.linear(last)"),
    ("what stays is not scaled", DROPOUT,
     ".to(history) / (1 - self.DROPOUT_RATE)",
     ".to(history)"),
    ("what should stay goes", DROPOUT,
     "kept = words[: history.numel()] >= round(",
     "kept = words[: history.numel()] < round("),
    ("the same inputs go at every step", DROPOUT,
     "random_words(blocks, step, DROPOUT",
     "random_words(blocks, 0, DROPOUT"),
    ("inputs go at inference", DROPOUT,
     "        if step is not None:\n            history = history * self._kept(history, step)",
     "        history = history * self._kept(history, step or 0)"),
)  # fmt: skip

CAPSULES = group(
    "remi_fast/models/capsules.py",
    ("one draw for all samples", MIND,
     "1 if step is None else batch",
     "1"),
    ("logits of the first step", MIND,
     "(step, ROUTING)",
     "(0, ROUTING)"),
)  # fmt: skip

MAKING = group(
    "remi_fast/models/recommender.py",
    ("the seed of a model is ignored", f"{TRAINER}same_seed_same_bits_other_seed_other_bits",
     "generator = torch.Generator().manual_seed(seed)",
     "generator = None"),
    ("the table's own deviation is ignored",
     published("gru4rec", "table.weight", "0.0255488065153798"),
     "std = extractor.item_std(num_items)",
     "std = None"),
)  # fmt: skip

STEP = group(
    "remi_fast/training/step.py",
    ("the sampler is not corrected for", f"{AS_DRAWN}[popularity]",
     "\"log_q\": batch.log_q,",
     "\"log_q\": None,"),
    ("targets are their own negatives", f"{AS_DRAWN}[mixed]",
     "mask_hits = self.config.loss.mask_hits or self.candidates.with_targets",
     "mask_hits = self.config.loss.mask_hits"),
    ("rows of targets and negatives swapped", f"{AS_DRAWN}[popularity]",
     "        history_rows, target_rows, negative_rows = ",
     "        history_rows, negative_rows, target_rows = "),
    ("gradients of the step before", f"{CHECKPOINT}training_continues_from_shards_with_the_same_"
     "bits",
     "        self.dense_optimizer.zero_grad()\n",
     ""),
    ("gradients of rows are not looked at",
     f"{NON_FINITE}nothing_is_updated_and_the_place_is_named[in_a_gradient-native]",
     "if not (rows is None or rows.finite) or not",
     "if not"),
    ("the extractor stands still for a gradient of padding",
     f"{NON_FINITE}a_step_goes_on_where_only_the_gradient_of_padding_is_not_finite",
     "            self.dense_optimizer.step_if_finite()  # that",
     "            pass  # that"),
    ("a loss that is not finite goes on",
     f"{NON_FINITE}nothing_is_updated_and_the_place_is_named[in_the_loss-native]",
     "if not math.isfinite(result.total):",
     "if math.isnan(result.ranking) and math.isinf(result.ranking):"),
)  # fmt: skip

OBJECTIVE = group(
    "remi_fast/training/objective.py",
    ("beta without its warm-up", f"{STEPS}[beta-rr_lambda-beta_warmup]",
     "return self.loss.beta_at(step)",
     "return self.loss.beta"),
    ("t is the default's", f"{STEPS}[name-beta-gbce_t-mask_hits]",
     "t=self.loss.gbce_t,",
     "t=0.75,"),
    ("hits of gbce are not masked", f"{STEPS}[name-beta-gbce_t-mask_hits]",
     "target_ids=target_ids,",
     "target_ids=None,"),
    ("RR is not for gbce", f"{STEPS}[name-beta-rr_lambda]",
     "return gbce, _rr(routing, query)",
     "return gbce, None"),
    ("the same interests at every step", f"{SOFT}it_is_a_function_of_seed_and_step",
     "random_words(users, step, SELECTION, seed)",
     "random_words(users, 0, SELECTION, seed)"),
    ("interests are drawn without tau",
     f"{SOFT}interests_are_drawn_by_the_softmax_of_their_scores[2.0]",
     "torch.softmax(tau * scores, dim=1)",
     "torch.softmax(scores, dim=1)"),
    ("the selection is always hard", ONE_LEARNS,
     'if self.loss.selection == "hard":',
     "if True:"),
    ("RR of the drawn interest alone", ONE_LEARNS,
     "return ranking, _rr(routing, query)",
     "return ranking, _rr(routing[:, :1], query)"),
)  # fmt: skip

CHOOSING = group(
    "remi_fast/training/candidates.py",
    ("popularity without its power", POPULARITY,
     'loss.sampler_alpha if loss.sampler == "popularity" else 1.0',
     "1.0"),
    ("what never occurred is drawn", POPULARITY,
     "torch.where(counts > 0, counts.double() ** alpha, 0)",
     "(counts.double() + 1) ** alpha"),
    ("targets before the drawn", MIXED,
     "torch.cat([drawn, ids])",
     "torch.cat([ids, drawn])"),
    ("a mixture of equal shares", MIXED,
     "shares = len(target) * log_q.exp()",
     "shares = self.num * log_q.exp()"),
    ("padding is one of the uniform ones", MIXED,
     "self.num / (self.num_items - 1)",
     "self.num / self.num_items"),
    ("padding is in the catalogue", f"{CANDIDATES}full_is_every_item_once_at_every_step",
     "torch.arange(1, num_items, ",
     "torch.arange(num_items, "),
    ("the target counts twice", f"{STEPS}[sampler-beta]",
     'self.with_targets = loss.sampler in ("in-batch", "mixed", "full")',
     'self.with_targets = loss.sampler in ("in-batch", "mixed")'),
    ("the scale counts the target", f"{STEPS}[sampler-beta-rr_lambda]",
     "math.log(max(num_items - 2, 1))",
     "math.log(num_items - 1)"),
    ("a proposal is not corrected for", f"{CANDIDATES}with_more_negatives_the_loss_tends_to_that_"
     "of_the_catalogue[log-uniform-0.0]",
     "self._log_q = self._proposal.log_q",
     "self._log_q = None"),
    ("without replacement is with", f"{CANDIDATES}z_of_uniform_negatives_is_unbiased_and_varies_as_"
     "documented[False]",
     "replacement=self.replacement,",
     "replacement=True,"),
    ("the correction of another step", f"{CANDIDATES}uniform_ids_need_no_correction",
     "step=step,",
     "step=step + 1,"),
)  # fmt: skip

FREQUENCIES = "tests/training/test_frequencies.py::test_targets_come_as_often_as_said"

COUNTING = group(
    "remi_fast/training/frequencies.py",
    ("a last item is not counted", f"{MODELS}popularity_is_counted",
     "np.add.at(marks, end, -1)",
     "np.add.at(marks, end - 1, -1)"),
    ("every item counts once", f"{MODELS}popularity_is_counted",
     "np.bincount(items, minlength=dataset.num_items)",
     "(np.bincount(items, minlength=dataset.num_items) > 0)"),
    ("items that are too early are targets", f"{FREQUENCIES}[4-epoch]",
     "np.minimum(start + train.min_history, end)",
     "start"),
    ("users weigh as their histories", f"{FREQUENCIES}[4-uniform]",
     'if train.sampling == "epoch":',
     'if train.sampling != "epoch!":'),
)  # fmt: skip

DIAGNOSING = group(
    "remi_fast/training/diagnostics.py",
    ("entropy of no unit", f"{DIAGNOSTICS}routing_over_all_items",
     "/ length[several, None].log()).mean()",
     ").mean()"),
    ("an interest is alike itself", f"{DIAGNOSTICS}interests_that_win_in_turn",
     ".triu(1)",
     ".triu(0)"),
    ("hardness the other way", f"{DIAGNOSTICS}negatives_without_and_with_hardness",
     "(hard - scores.mean(dim=1)) / spread",
     "(scores.mean(dim=1) - hard) / spread"),
    ("weights without beta", f"{DIAGNOSTICS}negatives_without_and_with_hardness",
     "weights = torch.softmax(beta * scores, dim=1)",
     "weights = torch.softmax(scores, dim=1)"),
)  # fmt: skip

SHARDING = group(
    "remi_fast/training/shards.py",
    ("rows after a shard are left out", SHARDS,
     "edges = [*range(0, len(tensor), length), len(tensor)]",
     "edges = [*range(0, len(tensor), length)]"),
    ("a shard too long", SHARDS,
     "length = max(1, SHARD_BYTES // tensor[0].nbytes)",
     "length = 1 + SHARD_BYTES // tensor[0].nbytes"),
    ("every piece goes to the first rows", SHARDS,
     "tensor if self.end is None else tensor[self.start : self.end]",
     "tensor if self.end is None else tensor[: self.end - self.start]"),
    ("a lost piece is no loss", "tests/reliability/test_hostile_files.py::test_pieces_that_do_not_"
     "follow_one_another[names3]",
     "if end is None or piece.start != rows or form",
     "if end is None or form"),
    ("what is not finite is saved", f"{NON_FINITE}what_is_not_finite_is_not_saved",
     "if not values.is_floating_point() or all_finite([values]):",
     "if values.is_floating_point() or all_finite([values]):"),
)  # fmt: skip

SAVING = group(
    "remi_fast/training/checkpoint.py",
    ("best weights are late", UP_TO_DATE,
     'up_to_date = {"table.weight": model.rows}',
     "up_to_date = {}"),
    ("stamps start anew", CONTINUES,
     "trainer.table_optimizer.load_state_dict(numbers | tensors)",
     'tensors["stamp"].zero_(); trainer.table_optimizer.load_state_dict(numbers | tensors)'),
    ("the dense optimizer starts anew", CONTINUES,
     "    _load_dense_state(trainer.dense_optimizer, shards.read(groups[\"dense_optimizer\"]))\n",
     ""),
    ("weights are not read back", CONTINUES,
     '    _read_into(folder, groups["model"], trainer.model.state_dict())\n',
     ""),
)  # fmt: skip

TRAINING = group(
    "remi_fast/training/trainer.py",
    ("training goes on from the first batch",
     f"{TRAINER}resume_after_a_kill_is_bit_identical[17]",
     "make_engine(self.training_step, self.dataset, self.step)",
     "make_engine(self.training_step, self.dataset, 0)"),
    ("means start anew", f"{TRAINER}resume_after_a_kill_is_bit_identical[17]",
     'self._mean.restore(progress["running_mean"])',
     'progress["running_mean"]'),
    ("the best is forgotten", f"{TRAINER}resuming_a_finished_run_changes_nothing",
     'self.step, self.best = progress["step"], progress["best"]',
     'self.step, self.best = progress["step"], {"step": 1, "valid": {}}'),
    ("the worst are the best", f"{TRAINER}the_test_is_of_the_best_weights",
     "metrics[SELECTION_METRIC] > self.best",
     "metrics[SELECTION_METRIC] < self.best"),
    ("one validation too patient", f"{TRAINER}patience",
     "self.evaluations_since_best >= self.config.train.patience",
     "self.evaluations_since_best > self.config.train.patience"),
    ("the last weights are tested", f"{TRAINER}the_test_is_of_the_best_weights",
     "            self._load_best()\n",
     ""),
    ("the last step is not saved", f"{TRAINER}run_folder",
     "evaluated = self.step % train.eval_every == 0 or self.step == train.steps",
     "evaluated = self.step % train.eval_every == 0 and self.step < train.steps"),
)  # fmt: skip

OPTIMIZER = group(
    "remi_fast/optim.py",
    ("rows of the step before take part", FORGOTTEN,
     '        """Forget the rows gathered since the last step, and their gradients."""\n'
     "        self._forget()",
     '        """Forget the rows gathered since the last step, and their gradients."""'),
    ("the rate is always the first", f"{OPTIM}follows_dense_adam_through_a_model[True-native]",
     'rate = float(self.param_groups[0]["lr"])',
     'rate = float(self.defaults["lr"])'),
    ("a step without gradients is none", f"{OPTIM}nothing_to_merge",
     "        if guard is None:\n            self._steps.advance",
     "        if guard is None and used is None:\n            pass\n"
     "        elif guard is None:\n            self._steps.advance"),
    ("flushing brings nothing up to date", DENSE_ADAM,
     "kernel.flush(self._adam, self._steps, backend=self._backend)",
     "pass"),
    ("only the first gather", f"{OPTIM}several_gathers_before_a_step_are_one",
     "if len(used) > 1:",
     "if len(used) > 2:"),
    ("a part without gradients is left out",
     f"{OPTIM}several_tensors_of_ids_are_one_gather[native]",
     "[torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]",
     "[leaf.grad for leaf in leaves if leaf.grad is not None]"),
    ("gradients of padding are looked at",
     f"{NON_FINITE}gradients_of_padding_do_not_matter[native]",
     "        if all_finite([used.gradients[not_padding]]):\n            return\n",
     ""),
    ("gradients are not looked at",
     f"{NON_FINITE}gradients_of_padding_do_not_matter[native]",
     "if used is None or used.finite:",
     "if used is None or not used.finite:"),
    ("padding is in the norm", MERGED,
     "merged[(ids <= 0) | (ids >= len(self._adam.weight))] = 0",
     "merged[ids >= len(self._adam.weight)] = 0"),
    ("the sum at the last occurrence", f"{OPTIM}merging_gradients_changes_no_bit_of_a_step",
     "sums[row].where(first[:, None], 0)",
     "sums[row].where(first[:, None], sums[row])"),
    ("stamps of a state may be in its future",
     f"{OPTIM}stamps_of_a_state_are_steps_it_has_taken[1]",
     'if low < 0 or high > state_dict["step"]:',
     "if low < 0:"),
    ("the rate is not loaded",
     f"{OPTIM}saving_and_loading_in_the_middle_continues_with_the_same_bits",
     '        self.param_groups[0]["lr"] = state_dict["lr"]\n',
     ""),
)  # fmt: skip

NEAREST = group(
    "remi_fast/errors.py",
    ("nothing is near enough",
     ERRORS + "[trian: {steps: 1}-did you mean train]",
     "n=1, cutoff=0.5)",
     "n=1, cutoff=0.99)"),
)  # fmt: skip

SETTINGS = group(
    "remi_fast/config.py",
    ("no steps are enough", ERRORS + "[train: {steps: 0}-train.steps: got 0, expected a "
     "whole number >= 1]",
     "if not least <= value < end:",
     "if not 0 <= value < end:"),
    ("NaN is a number", ERRORS + "[loss: {beta: .nan}-loss.beta: got nan]",
     "if not least <= value < end:",
     "if value < least or value >= end:"),
    ("null is a value", ERRORS + "[optim: {lr: null}-optim.lr: got null, expected a value]",
     "if value is None:",
     "if value is ...:"),
    ("what means nothing to gbce is ignored", ERRORS + "[loss: {name: gbce}-loss.beta: got 1.0 "
     "with loss.name 'gbce', expected 0]",
     "            self._check_gbce()\n",
     "            pass\n"),
    ("beta is full a step early", f"{STEPS}[beta-rr_lambda-beta_warmup]",
     "return self.beta * (step / self.beta_warmup)",
     "return self.beta * ((step + 1) / self.beta_warmup)"),
)  # fmt: skip

MUTANTS = [
    *LOSS, *TABLE, *SINGLE_VECTOR, *CAPSULES, *MAKING, *STEP, *OBJECTIVE, *CHOOSING, *COUNTING,
    *DIAGNOSING, *SHARDING, *SAVING, *TRAINING, *OPTIMIZER, *NEAREST, *SETTINGS,
]  # fmt: skip
