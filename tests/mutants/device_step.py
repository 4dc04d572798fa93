"""Bugs in the steps that the device makes by itself: guard, engine, trainer."""

from .killers import MEMORY, group

KERNEL = "kernels/step_guard_triton.py"
LAUNCH = "kernels/step_guard_launch.py"
OPERATION = "kernels/step_guard.py"
ADAM = "kernels/deferred_adam_triton.py"
STATE = "kernels/deferred_adam_state.py"
OPTIMIZER = "remi_fast/optim.py"
CLASS = "remi_fast/training/device_step.py"
STEP = "remi_fast/training/step.py"
TRAINER = "remi_fast/training/trainer.py"
PLACE = "remi_fast/training/placement.py"
UPLOADED = "remi_fast/data/uploaded_batches.py"
UPLOADED_TESTS = "tests/data/test_uploaded_batches.py::test_"
UPLOADS = f"{UPLOADED_TESTS}the_batches_of_the_loader"
GUARD = "tests/kernels/test_step_guard.py::test_"
DEVICE = "tests/training/test_device_step.py::test_"
BESIDE = "tests/training/test_no_synchronisation.py::test_what_runs_beside_is_waited_for"
RUN = "tests/training/test_trainer_on_a_device.py::test_"
STEPS = "tests/training/test_step.py::test_steps_are_those_of_plain_pytorch"
PLACES = "tests/training/test_placement.py::test_"

RING = f"{GUARD}steps_are_read_in_order_past_the_end_of_the_ring"
NO_MATTER = f"{GUARD}padding_other_rows_and_ids_outside_do_not_matter"
GUARDED = f"{MEMORY}nothing_is_touched_beyond_a_tensor[guard]"
BETA = f"{DEVICE}steps_with_a_growing_beta_are_made_one_by_one"
MIDST = f"{DEVICE}a_bad_step_in_the_midst_of_others"


def looked(bad, backend="triton"):
    return f"{GUARD}all_of_it_is_looked_at[{backend}-{bad}]"


def noted(rr, backend="triton"):
    return f"{GUARD}the_losses_of_a_step_are_noted[{rr}-5-{backend}]"


def cut(steps, parts):
    return f"{DEVICE}the_same_bits_however_steps_are_cut[{steps}-parts{parts}]"


def held(place, case="100-inf"):
    return f"{DEVICE}from_a_bad_step_on_nothing_is_updated[{case}-{place}]"


LOOKING = group(
    KERNEL,
    ("minus infinity is finite", looked("-inf"),
     "~(tl.abs(values) < float(\"inf\"))",
     "~(values < float(\"inf\"))"),
    ("NaN is finite", looked("nan"),
     "~(tl.abs(values) < float(\"inf\"))",
     "tl.abs(values) >= float(\"inf\")"),
    ("second moments are not looked at", looked("nan"),
     " | _not_finite(exp_avg_sq)\n",
     "\n"),
    ("padding is looked at", f"{NO_MATTER}[triton]",
     "mask = ((ids > 0) & (ids < num_rows))",
     "mask = ((ids >= 0) & (ids < num_rows))"),
    ("ids outside the table are looked at", GUARDED,
     "mask = ((ids > 0) & (ids < num_rows))",
     "mask = (ids > 0)"),
    ("the last element is not looked at", looked("inf"),
     "mask=offsets < size, other=0.0)\n                bad",
     "mask=offsets < size - 1, other=0.0)\n                bad"),
    ("an element after the last is looked at", GUARDED,
     "mask=offsets < size, other=0.0)\n                bad",
     "mask=offsets <= size, other=0.0)\n                bad"),
    ("only the first dense tensor", looked("nan"),
     "for i in tl.static_range(DENSE):",
     "for i in tl.static_range(1):"),
    ("losses are all noted in one place", f"{RING}[triton]",
     "tl.load(step_ptr) % CAPACITY * 3",
     "tl.load(step_ptr) * 0"),
    ("RR does not count", noted(True),
     "ranking + rr_weight * rr)",
     "ranking + rr)"),
    ("the loss is not looked at", looked("nan"),
     "        _hold(_not_finite(total).to(tl.int32), found_inf_ptr, increment_ptr)\n",
     ""),
    ("the step still counts", looked("nan"),
     "    tl.store(increment_ptr, tl.zeros([], tl.int64), mask=bad > 0)\n",
     ""),
)  # fmt: skip

LAUNCHING = group(
    LAUNCH,
    ("strides are not heeded", f"{GUARD}strided_tensors_are_looked_at_as_they_are",
     "made.gradients.contiguous()",
     "made.gradients"),
    ("rows that do not fill a program", looked("nan"),
     "row_programs = triton.cdiv(len(made.ids), rows)",
     "row_programs = len(made.ids) // rows"),
)  # fmt: skip

REFERENCE = group(
    OPERATION,
    ("moments are not looked at", looked("nan", "reference"),
     "made.gradients[real], state.exp_avg[ids], state.exp_avg_sq[ids]]",
     "made.gradients[real]]"),
    ("losses are read from the first", f"{RING}[reference]",
     "losses[step % self.capacity] for step in range(first, first + count)",
     "losses[step] for step in range(count)"),
)  # fmt: skip

UPDATE = [
    *group(ADAM, ("an update that was found wanting is made",
                  f"{GUARD}an_update_is_made_unless_something_was_found[True-triton]",
                  "tl.where(tl.load(found_inf_ptr) == 0, ids, 0) > 0)",
                  "tl.where(tl.load(found_inf_ptr) <= 1, ids, 0) > 0)")),
    *group(STATE, ("steps that were held stay announced", MIDST,
                   "is there already.\"\"\"\n        self.step = step\n",
                   "is there already.\"\"\"\n")),
    *group(OPTIMIZER,
           ("rows do not heed the guard", held("in_a_dense_weight"),
            "found_inf=None if guard is None else guard.found_inf,",
            "found_inf=None,"),
           ("rows are caught up while the guard is held",
            f"{DEVICE}rows_are_not_caught_up_while_the_guard_is_held",
            "found_inf=None if self._guard is None else self._guard.found_inf,",
            "found_inf=None,"),
           ("a held step counts", held("in_a_dense_weight"),
            "self._device_steps.bump(guard.increment)",
            "self._device_steps.bump(1)"),
           ("gradients on a device are not looked at", held("in_a_gradient"),
            "used._replace(finite=False)",
            "used._replace(finite=True)")),
]  # fmt: skip

ENGINE = group(
    CLASS,
    ("warming up trains", cut(4, 2 + 1),
     "        self._guard.hold(True)\n",
     ""),
    ("the guard is held for good", cut(3, 2),
     "        self._guard.hold(False)\n        return replay",
     "        return replay"),
    ("too many steps at the end", cut(3, 2),
     "and end - step >= self._steps_a_replay:",
     "and end - step >= 1:"),
    ("a growing beta is full", BETA,
     "growing = min(count, max(0, self._loss.beta_warmup - first))",
     "growing = 0"),
    ("beta of the step before", f"{DEVICE}steps_are_those_of_the_reference[2.0-3-default]",
     "self._launch_several(1, self._loss.beta_at(step))",
     "self._launch_several(1, self._loss.beta_at(max(step - 1, 0)))"),
    ("more steps than are kept", f"{DEVICE}no_more_steps_than_losses_are_kept",
     "min(most, _READ_AT_ONCE)",
     "most"),
    ("the extractor does not heed the guard", held("in_a_row"),
     "step_unwatched(number, steps, found_inf)",
     "step_unwatched(number, steps, torch.zeros_like(found_inf))"),
    ("the extractor's step is read while it is counted", BESIDE,
     "step_unwatched(number, steps, found_inf)",
     "step_unwatched(self._number, steps, found_inf)"),
    ("all steps of a replay are the first", cut(3, 2),
     "torch.arange(steps_a_replay,",
     "torch.zeros(steps_a_replay, dtype=torch.int64,"),
    ("all batches of a replay in the same memory", cut(3, 2),
     "self._slots = batches.slots(steps_a_replay)",
     "self._slots = batches.slots(1) * steps_a_replay"),
    ("the look is not waited for", BESIDE,
     "        looked()\n",
     ""),
    ("the extractor's update is not waited for", BESIDE,
     "        updated()\n",
     ""),
    ("batches are not waited for", BESIDE,
     "            is_there()\n",
     ""),
    ("batches are made one after the other", BESIDE,
     "        with self._ahead.launches():",
     "        if True:"),
    ("dense gradients add up", f"{DEVICE}steps_are_those_of_the_reference[True-True-default]",
     "        made_of.dense_optimizer.zero_grad()\n",
     ""),
    ("dense moments are not looked at", held("in_a_dense_moment"),
     "        dense += made_of.lasting_tensors().values()\n",
     ""),
    ("what was found is not told", held("in_the_loss"),
     "        if found:\n            self._explain()\n",
     ""),
)  # fmt: skip

AROUND = [
    *group(STEP,
           ("RR has no weight in the gradient", f"{STEPS}[beta-rr_lambda]",
            "self._mean_gradient(rr_weight(self.config.loss.rr_lambda), rr)",
            "self._mean_gradient(1.0, rr)"),
           ("the backward pass has another precision",
            f"{DEVICE}products_are_made_as_asked[tf32]",
            "        with self._arithmetic():\n            torch.autograd.backward",
            "        if True:\n            torch.autograd.backward"),
           ("a step explained is only of its loss", held("in_a_gradient"),
            "            self.backward(ranking, rr)\n        self._name_what_is_not_finite(step)\n"
            "        raise",
            "            pass\n        self._name_what_is_not_finite(step)\n        raise")),
    *group(TRAINER,
           ("lines of the log are passed over", f"{RUN}it_advances_from_stop_to_stop",
            "periods = LOG_EVERY, train.eval_every,",
            "periods = train.eval_every, train.eval_every,"),
           ("checkpoints are passed over", f"{RUN}it_advances_from_stop_to_stop",
            "train.checkpoint_every or train.eval_every\n        return",
            "train.eval_every\n        return"),
           ("a GPU's weights want a GPU", f"{PLACES}weights_of_a_gpu_are_loaded_without_one",
            'if config.train.backend == "triton":',
            'if config.train.backend == "cuda":')),
    *group(UPLOADED,
           ("all batches of a replay are the first one's", UPLOADS,
            "for mine, its in zip(slot,",
            "for mine, its in zip(slots[0],"),
           ("only the first batch is copied", UPLOADS,
            "self._there[:count].copy_(whole[:count]",
            "self._there[:1].copy_(whole[:1]"),
           ("a step is passed over", f"{UPLOADED_TESTS}another_step_than_the_next",
            "if batch.step != step:",
            "if False:")),
    *group(PLACE,
           ("a GPU is as large as the machine", f"{PLACES}a_table_that_does_not_fit_a_gpu",
            'if device.type == "cuda":\n        return torch.cuda',
            'if device.type == "tpu":\n        return torch.cuda'),
           ("any data fit", f"{PLACES}data_that_do_not_fit_a_gpu_are_uploaded_by_batches",
            "return need <= ",
            "return True or need <= "),
           ("a GPU is only for those who ask", f"{PLACES}with_a_gpu",
            'or (chosen == "auto" and not reason)',
            "or False"),
           ("a GPU that is not there", f"{PLACES}without_a_gpu",
            'if chosen == "cuda" and not there:',
            'if chosen == "cuda" and False:'),
           ("a GPU for what it cannot", f"{PLACES}what_a_gpu_cannot_train[settings3-model."
            "max_history: got 257 on a GPU, expected at most 256]",
            "> most:\n            return",
            "> 2 * most:\n            return")),
]  # fmt: skip

MUTANTS = [*LOOKING, *LAUNCHING, *REFERENCE, *UPDATE, *ENGINE, *AROUND]
