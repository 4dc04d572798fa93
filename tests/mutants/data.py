"""Bugs in what makes a dataset, reads it, evaluates on it and recommends from it."""

from .killers import group

PREPARE = "tests/data/test_prepare.py::test_"
READERS = "tests/data/test_readers.py::test_"
LOADER = "tests/data/test_loader.py::test_"
DATASET = "tests/data/test_dataset.py::test_"
FILES = "tests/test_files.py::test_"
METRICS = "tests/retrieval/test_metrics.py::test_"
SEARCH = "tests/retrieval/test_search.py::test_"
RECOMMEND = "tests/retrieval/test_recommend.py::test_"

BY_HAND = "tests/retrieval/test_evaluate.py::test_by_hand[4-False-valid]"
SEEN = "tests/retrieval/test_evaluate.py::test_by_hand[4-True-valid]"
TORCHMETRICS = f"{METRICS}against_torchmetrics[20-0]"
REPEATED = f"{METRICS}repeated_targets_count_in_the_recall_but_not_in_the_ideal"
FILLED_UP = f"{METRICS}filled_up_places_are_no_hits_and_users_do_not_mix"
MERGED = f"{SEARCH}equals_the_published_merge[0-5-64]"
TIES = f"{SEARCH}equal_scores_are_ordered_by_id[0-64]"
IN_ORDER = f"{RECOMMEND}last_items_in_order_of_time[1024]"
BAD_DATA = f"{LOADER}bad_data"


def plain(name="one-pass", least=9):
    return f"{PREPARE}against_plain_python[{name}-{least}-0]"


FILTERS = group(
    "remi_fast/data/filters.py",
    ("as often as the least is too seldom", plain(),
     "minlength=len(catalogue)) >= min_item",
     "minlength=len(catalogue)) > min_item"),
    ("users counted before the items went", plain(),
     "_often(users, min_user)",
     "_often(users, min_item + 1)"),
    ("a core is one pass", f"{PREPARE}against_plain_python[k-core-6-1]",
     'if name != "k-core" or len(kept) == before:',
     'if name == "k-core" or len(kept) == before:'),
    ("places of the interactions not filtered", plain(),
     "users[mask], items[mask], kept[mask]",
     "users[mask], items[mask], kept[: mask.sum()]"),
)  # fmt: skip

INDEXING = group(
    "remi_fast/data/prepare.py",
    ("rare items come first", plain(),
     "np.argsort(-counts, kind=\"stable\")",
     "np.argsort(counts, kind=\"stable\")"),
    ("an item has the padding's index", plain(),
     "np.arange(1, len(ranked) + 1)",
     "np.arange(len(ranked))"),
    ("sorted by time before users", plain(),
     "np.lexsort((times, users))",
     "np.lexsort((users, times))"),
    ("items of all are in the catalogue", plain(),
     "by_count[kept.catalogue[by_count]]",
     "by_count"),
    ("counts in the order of the ids", plain(),
     "item_counts=counts[ranked]",
     "item_counts=counts[: len(ranked)]"),
    ("times in the order of the file",
     f"{PREPARE}the_temporal_split_is_of_times_not_of_the_order_of_the_file",
     "times=None if times is None else times[order]",
     "times=times"),
)  # fmt: skip

SPLITS = group(
    "remi_fast/data/splits.py",
    ("the last item is trained on", f"{PREPARE}other_splits",
     "(every, start, np.maximum(end - 2, start)),",
     "(every, start, np.maximum(end - 1, start)),"),
    ("validation is on the test's target", f"{PREPARE}other_splits",
     "np.maximum(end - 2, start), np.maximum(end - 1, start)),",
     "np.maximum(end - 2, start), end),"),
    ("the time of the cut is before it", f"{PREPARE}other_splits",
     "np.cumsum(times < time, dtype=np.int64)",
     "np.cumsum(times <= time, dtype=np.int64)"),
    ("a user's interactions are counted from the first user's on", f"{PREPARE}other_splits",
     "cuts.append(start + earlier[end] - earlier[start])",
     "cuts.append(start + earlier[end])"),
    ("nine tenths of the users train", f"{PREPARE}users_split",
     "part[order[: num_users * 8 // 10]] = 0",
     "part[order[: num_users * 9 // 10]] = 0"),
    ("users are not shuffled", f"{PREPARE}users_split",
     "part[order[: num_users * 8 // 10]] = 0",
     "part[: num_users * 8 // 10] = 0"),
    ("the seed of the users is ignored", f"{PREPARE}same_input_same_bytes",
     "random_words(np.arange(num_users), 0, DATA_SPLIT, seed)",
     "random_words(np.arange(num_users), 0, DATA_SPLIT, 1)"),
    ("a history of half the items", f"{PREPARE}users_split",
     "cut = start + (end - start) * 8 // 10",
     "cut = start + (end - start) * 5 // 10"),
)  # fmt: skip

READING = group(
    "remi_fast/data/readers.py",
    ("leading zeros are lost", f"{READERS}ids_that_are_not_plain_numbers_stay_text",
     "return ids if (ids.cast(pl.String) == column).all() else column",
     "return ids"),
    ("times of other zones are taken for UTC", f"{READERS}dates_become_microseconds[values1]",
     '"%Y-%m-%d %H:%M:%S%.f%:z", time_zone="UTC", strict=False)',
     '"%Y-%m-%d %H:%M:%S%.f%:z", time_zone="UTC", strict=False).dt.offset_by("1h")'),
    ("a file's second part is its first", f"{READERS}parquet_and_several_files",
     "frame = pl.concat([p.frame for p in parts])",
     "frame = pl.concat([parts[0].frame for p in parts])"),
    ("fields of other columns are not counted",
     f"{READERS}a_row_with_a_field_more_or_less[a comma-x.csv]",
     "scan.map_batches(selected, schema=dict.fromkeys(names, pl.String), streamable=True)",
     "scan.select(select)"),
    ("a title less is a title", f"{READERS}a_row_with_a_field_more_or_less[no title-x.tsv]",
     "if any(lacking) or ends_with_separator(source, suffix):",
     "if ends_with_separator(source, suffix):"),
    ("a field more at the end of the file",
     f"{READERS}a_row_with_a_field_more_or_less[a comma at the end of the file-x.csv.gz]",
     "if any(lacking) or ends_with_separator(source, suffix):",
     "if any(lacking):"),
    ("all users train", f"{READERS}folder_that_is_split_already[3]",
     "pl.repeat(PARTS.index(part), frame.height",
     "pl.repeat(0, frame.height"),
    ("a user who is in two parts", f"{PREPARE}a_given_split_is_kept_and_not_filtered",
     "pl.repeat(PARTS.index(part), frame.height",
     "pl.repeat(min(PARTS.index(part), 1), frame.height"),
)  # fmt: skip

OPENING = group(
    "remi_fast/data/dataset.py",
    ("an index past the last item", f"{DATASET}arrays_that_point_outside[items.npy-<lambda>-"
     "items.npy: got indices 0..0]",
     "items.min() >= 1 and",
     "items.min() >= 0 and"),
    ("spans may be of another user", f"{DATASET}arrays_that_point_outside[train_spans.npy-<lambda>-"
     "row 3 is]",
     "if not inside.all():",
     "if not inside.any():"),
    ("checksums are not looked at", f"{DATASET}flipped_bytes_truncation_and_loss[items.npy]",
     "        if verify:\n",
     "        if not verify:\n"),
)  # fmt: skip

LOADING = group(
    "remi_fast/data/loader.py",
    ("a slot is that of the next step", f"{LOADER}formulas[0-uniform-1]",
     "self._slots[step % len(self._slots)]",
     "self._slots[(step + 1) % len(self._slots)]"),
    ("the first step is always 0", f"{LOADER}formulas[1000-uniform-1]",
     "self._ring = C.BatchRing(self._sampler, *arrays, start_step, threads)",
     "self._ring = C.BatchRing(self._sampler, *arrays, 0, threads)"),
    ("samplings swapped", f"{LOADER}formulas[0-epoch-1]",
     'min_history, seed, sampling == "epoch"',
     'min_history, seed, sampling != "epoch"'),
    ("target and user swapped", f"{LOADER}formulas[0-uniform-1]",
     "target.numpy(), user.numpy())",
     "user.numpy(), target.numpy())"),
    ("a batch of one's own is the ring's", f"{LOADER}ring_views_without_copies_and_keeps_what_is_"
     "held",
     "for buffer in self._allocate(1, False)",
     "for buffer in zip(*self._slots[:1], strict=True)"),
    ("strided arrays are read as dense", f"{BAD_DATA}[data1-not contiguous]",
     "if array.dtype != dtype or not array.flags.c_contiguous:",
     "if array.dtype != dtype:"),
)  # fmt: skip

HISTORIES = group(
    "remi_fast/retrieval/histories.py",
    ("a sample of few has them twice",
     "tests/retrieval/test_search.py::test_an_even_sample_has_both_ends_and_nobody_twice[6]",
     "if count <= most:",
     "if count == most:"),
    ("the first items of a history", BY_HAND,
     "first = np.maximum(start, end - max_history)",
     "first = start"),
    ("the item after the history", SEEN,
     "inside = position < end[:, None]",
     "inside = position <= end[:, None]"),
    ("items of the user before", BY_HAND,
     "first = np.maximum(start, end - max_history)",
     "first = np.maximum(0, end - max_history)"),
)  # fmt: skip

MEASURING = group(
    "remi_fast/retrieval/metrics.py",
    ("recall over the cut-off", TORCHMETRICS,
     "value = top.sum(1) / np.diff(offsets)",
     "value = top.sum(1) / k"),
    ("a rank too low", TORCHMETRICS,
     "np.log2(np.arange(2, most + 2))",
     "np.log2(np.arange(3, most + 3))"),
    ("ideal of targets that are there twice", REPEATED,
     "pairs = np.unique(np.stack([owner, targets]), axis=1)",
     "pairs = np.stack([owner, targets])"),
    ("ideal of more than the cut-off", TORCHMETRICS,
     "ideal[np.minimum(distinct, min(k, most))]",
     "ideal[np.minimum(distinct, most // 2)]"),
    ("filled-up places are hits", FILLED_UP,
     "owner * base + targets) & (ranked > 0)",
     "owner * base + targets) | (ranked == 0)"),
    ("targets of all users", FILLED_UP,
     "owner * base + targets)",
     "targets)"),
)  # fmt: skip

SEARCHING = group(
    "remi_fast/retrieval/search.py",
    ("padding is retrieved", MERGED,
     "for start in range(1, items.num_items, size):",
     "for start in range(0, items.num_items, size):"),
)  # fmt: skip

EVALUATING = group(
    "remi_fast/retrieval/evaluate.py",
    ("the history has the targets in it", BY_HAND,
     "last_items(dataset.items, start, cut, model.max_history)",
     "last_items(dataset.items, start, end, model.max_history)"),
    ("targets of the first user", BY_HAND,
     "np.repeat(cut - offsets[:-1], end - cut)",
     "np.repeat(cut, end - cut)"),
    ("all users for a sample", "tests/retrieval/test_evaluate.py::test_sample_of_users",
     "every = held_out.spans[even_sample(len(held_out), most)]",
     "every = held_out.spans"),
    ("only the last block of users", BY_HAND,
     "sums[name] = sums.get(name, 0.0) + float(values.sum())",
     "sums[name] = float(values.sum())"),
)  # fmt: skip

RECOMMENDING = group(
    "remi_fast/retrieval/recommend.py",
    ("the item after the one found", IN_ORDER,
     'gather(found.ids.numpy()[real] - 1)',
     'gather(found.ids.numpy()[real] % len(self.item_table))'),
    ("the table in the order it came in", IN_ORDER,
     'self.item_table = item_table.sort("index")',
     "self.item_table = item_table"),
    ("not sorted by time", IN_ORDER,
     'histories = histories.sort("timestamp", maintain_order=True)',
     "pass"),
    ("only what the model saw is excluded",
     f"{RECOMMEND}exclude_seen_leaves_out_the_whole_history",
     "padded(items, starts, ends)) if request.exclude_seen",
     "history) if request.exclude_seen"),
    ("ranks from 0", IN_ORDER,
     "(column + 1).astype(np.int32)",
     "column.astype(np.int32)"),
    ("a user's history begins with the last item of another's", IN_ORDER,
     "starts = np.concatenate([[0], ends[:-1]])",
     "starts = np.concatenate([[0], ends[:-1] - 1])"),
)  # fmt: skip

WRITING = group(
    "remi_fast/files.py",
    ("a file takes its place unflushed", f"{FILES}what_is_renamed_is_on_the_disk_first",
     "            fsync_path(temporary)\n            os.replace",
     "            os.replace"),
    ("a folder takes its place unflushed", f"{FILES}what_is_renamed_is_on_the_disk_first",
     "                for file in temporary.rglob(\"*\"):\n                    fsync_path(file)\n",
     ""),
    ("the old folder goes first", f"{FILES}a_kill_between_the_renames_is_undone[1]",
     "        os.replace(path, previous)\n",
     "        shutil.rmtree(path)\n"),
    ("the last chunk has no checksum",
     "tests/reliability/test_corruption.py::test_no_bit_of_a_file_is_left_out",
     "offsets = range(0, size, CHECKSUM_CHUNK)",
     "offsets = range(0, size - CHECKSUM_CHUNK, CHECKSUM_CHUNK)"),
    ("a chunk is named by its number", f"{FILES}verify_names_the_place",
     "at offset {chunk * CHECKSUM_CHUNK}: ",
     "at offset {chunk}: "),
    ("half-written files stay", f"{FILES}a_failed_write_leaves_the_old_file",
     "            temporary.unlink(missing_ok=True)\n\n\ndef write_json",
     "            pass\n\n\ndef write_json"),
    ("a file that is not listed is let through",
     "tests/reliability/test_corruption.py::test_a_file_that_nobody_listed_is_named[whole-data]",
     "if path.name not in listed and path.name != index and",
     "if path.name in listed and path.name != index and"),
)  # fmt: skip

MUTANTS = [
    *FILTERS, *INDEXING, *SPLITS, *READING, *OPENING, *LOADING, *HISTORIES, *MEASURING, *SEARCHING,
    *EVALUATING, *RECOMMENDING, *WRITING,
]  # fmt: skip
