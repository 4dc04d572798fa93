"""Settings that `remi-fast train` is given: options, files of them, presets."""

import json

from remi_fast.config import load_config

from .case import SMALL, accepted, refused

TRAIN = f"train data --out out {SMALL}"
MIB = 2**20


def option(name, words, got, expected):
    """An option that is refused; the error begins with its key."""
    key = words.strip("-").partition("=")[0]
    return refused(name, f"{TRAIN} {words}", f"{key}: ", got, expected, kind=2)


def yaml(name, text, got, expected):
    """A configuration file that is refused; the error names it."""
    return refused(
        name, f"{TRAIN} --config c.yaml", "c.yaml", got, expected, {"c.yaml": text}, kind=2
    )


def trained(**expected):
    """A check: it was trained, with these settings."""

    def check(folder, printed):
        config = load_config(folder / "out" / "config.yaml")
        settings = vars(config.model) | vars(config.loss) | vars(config.optim) | vars(config.train)
        steps = json.loads((folder / "out" / "result.json").read_text())["train"]["steps"]
        return steps == 2 and {name: settings[name] for name in expected} == expected

    return check


SIZE = "a whole number >= 1 and less than 2147483648"
CASES = [
    # values
    option("K of 0", "--model.num_interests=0", "got 0", SIZE),
    option("a dimension below 0", "--model.dim=-1", "got -1", SIZE),
    option("L of 0", "--model.max_history=0", "got 0", SIZE),
    option("N of 0", "--loss.num_negatives=0", "got 0", SIZE),
    option("N of 10^11", f"--loss.num_negatives={10**11}", f"got {10**11}", SIZE),
    option("B of 0", "--train.batch_size=0", "got 0", SIZE),
    option("B of 2^31", f"--train.batch_size={2**31}", f"got {2**31}", SIZE),
    option("a history of 2^31", f"--train.min_history={2**31}", "got 2147", SIZE),
    option("no step", "--train.steps=0", "got 0", "a whole number >= 1"),
    option("2^31 steps", f"--train.steps={2**31}", "got 2147483648", "less than 2147"),
    option("half a step", "--train.steps=1.5", "got 1.5", "a whole number"),
    option("beta below 0", "--loss.beta=-1", "got -1.0", "finite number >= 0"),
    option("beta NaN", "--loss.beta=nan", "got nan", "a number"),
    option("beta infinite", "--loss.beta=inf", "got inf", "a number"),
    option("beta 1e30", "--loss.beta=1e30", r"got 1e\+30", r"less than 2\^63"),
    option("beta a word", "--loss.beta=hard", "got hard", "a number"),
    option("beta nothing", "--loss.beta=", "got nothing", "a number"),
    option("a warm-up below 0", "--loss.beta_warmup=-1", "got -1", "number >= 0"),
    option("half a step of warm-up", "--loss.beta_warmup=1.5", "got 1.5", "a whole number"),
    option("lambda 1e308", "--loss.rr_lambda=1e308", r"got 1e\+308", "less than"),
    option("a rate below 0", "--optim.lr=-1", "got -1", "finite number >= 0"),
    option("a rate of NaN", "--optim.lr=nan", "got nan", "a number"),
    option("an unknown schedule", "--optim.schedule=step", "step", "one of constant, linear"),
    option("a rise below 0", "--optim.warmup_steps=-1", "got -1", "number >= 0"),
    option("half a step of rise", "--optim.warmup_steps=1.5", "got 1.5", "a whole number"),
    option("a seed below 0, trained", "--train.seed=-1", "got -1", "number >= 0"),
    option("a seed of 2^64, trained", f"--train.seed={2**64}", "got 184467", "2.63"),
    option("a truth for a seed", "--train.seed=true", "got True", "a whole number"),
    option("10^5 threads", "--train.threads=100000", "got 100000", "less than 1025"),
    option("an unknown model", "--model.name=sasrec", "sasrec", "one of comirec-sa"),
    option("an unknown sampler", "--loss.sampler=softmax", "softmax", "one of uniform"),
    option(
        "weighted draws without replacement",
        "--loss.replacement=false --loss.sampler=popularity",
        "got False with loss.sampler 'popularity'",
        "only uniform negatives",
    ),
    refused(
        "a batch of one for its own negatives",
        f"{TRAIN} --loss.sampler=in-batch --train.batch_size=1",
        "train.batch_size: ",
        "got 1 with loss.sampler 'in-batch'",
        "expected 2 or more",
        kind=2,
    ),
    option("an unknown selection", "--loss.selection=bam", "bam", "one of hard, soft"),
    option("tau below 0", "--loss.selection_tau=-1", "got -1", "finite number >= 0"),
    accepted("soft selection", f"{TRAIN} --loss.selection=soft", trained(selection="soft")),
    option("an unknown loss", "--loss.name=bpr", "bpr", "one of ihn, gbce"),
    option("t above 1", "--loss.gbce_t=1.5", "got 1.5", "a number from 0 to 1"),
    option("t NaN", "--loss.gbce_t=nan", "got nan", "a number"),
    *(
        refused(
            f"gbce with {key}",
            f"{TRAIN} --loss.name=gbce {words}",
            f"loss.{key}: ",
            f"got {got} with loss.name 'gbce'",
            "expected (0|False|'uniform')",
            kind=2,
        )
        for key, words, got in (
            ("beta", "", "1.0"),
            ("beta_warmup", "--loss.beta=0 --loss.beta_warmup=5", "5"),
            ("detach_weights", "--loss.beta=0 --loss.detach_weights=true", "True"),
            ("sampler", "--loss.beta=0 --loss.sampler=mixed", "'mixed'"),
        )
    ),
    refused(
        "gbce with more negatives than items",
        f"{TRAIN} --loss.name=gbce --loss.beta=0 --loss.num_negatives=500",
        "loss.num_negatives: ",
        "got 500 with loss.name 'gbce'",
        "expected at most [0-9]+, the number of items",
        kind=2,
    ),
    accepted("gbce", f"{TRAIN} --loss.name=gbce --loss.beta=0", trained(gbce_t=0.75)),
    option("an unknown device", "--train.device=tpu", "tpu", "one of auto, cpu, cuda"),
    option("a word for a truth", "--loss.mask_hits=maybe", "maybe", "true or false"),
    option("null", "--model.dim=null", "got None", "a whole number"),
    refused(
        "more memory than there is",
        f"{TRAIN} --model.dim={10**9}",
        "model.dim 1000000000",
        "need [0-9,]+ GiB",
        "expected at most the [0-9,]+ GiB of this machine",
        kind=2,
    ),
    # keys
    refused(
        "an unknown key",
        f"{TRAIN} --loss.betta=1",
        "unrecognized arguments",
        "--loss.betta=1",
        "did you mean --loss.beta",
        kind=2,
    ),
    refused(
        "a key without a value",
        f"{TRAIN} --loss.beta",
        "--loss.beta",
        "got nothing",
        "expected a value after it",
        kind=2,
    ),
    refused(
        "an unknown preset",
        f"{TRAIN} --preset gowala",
        "preset: ",
        "got 'gowala'",
        "did you mean gowalla",
        kind=2,
    ),
    refused(
        "no preset", f"{TRAIN} --preset", "--preset: ", "got nothing", "expected a value", kind=2
    ),
    refused(
        "no preset after the sign",
        "train data --preset= --out out",
        "--preset=: ",
        "got nothing",
        "expected a value",
        kind=2,
    ),
    refused(
        "no file of settings",
        f"{TRAIN} --config none.yaml",
        "none.yaml: ",
        "no such file",
        "expected a YAML file",
        kind=2,
    ),
    refused(
        "a folder of settings",
        f"{TRAIN} --config data",
        "data: ",
        "no such file",
        "expected a YAML file",
        kind=2,
    ),
    # files
    yaml("an empty YAML", "", "got nothing", "a mapping of keys"),
    yaml("comments alone", "# loss\n", "got nothing", "a mapping of keys"),
    yaml("a word of YAML", "loss", "got 'loss'", "a mapping of keys"),
    yaml("a list of YAML", "- loss: 1", "got a list", "a mapping of keys"),
    yaml("a list for a section", "loss: [1]", "loss: got a list", "a mapping"),
    yaml("a section of nothing", "loss:", "loss: got nothing", "a mapping"),
    yaml("a section with a typo", "los: {beta: 1}", "'los'", "did you mean loss"),
    yaml("a key with a typo", "loss: {betta: 1}", "'betta'", "did you mean loss.beta"),
    yaml("an option of train", "out: there", "key 'out'", "one of: model, loss"),
    yaml("a key twice", "loss: {}\nloss: {}", "'loss' twice", "every key once"),
    yaml("a word for a number", "loss: {beta: one}", "loss.beta: got one", "a number"),
    yaml("a list for a number", "loss: {beta: [1]}", "deeper nesting", "plain values"),
    yaml("null for a number", "loss: {beta: null}", "beta: got null", "a value"),
    yaml("a number out of range", "loss: {beta: -1}", "got -1", "number >= 0"),
    yaml("half a seed", "train: {seed: 1.5}", "train.seed: got 1.5", "whole number"),
    yaml("YAML that breaks off", "loss: {beta: 1", "stream end", "expected ',' or '}'"),
    yaml("YAML that is not UTF-8", b"\xff\xfe", "byte 0xff", "utf-8"),
    yaml("YAML of 3 MiB", "#" * 3 * MIB, f"got {3 * MIB} bytes", "at most"),
    # with the data
    refused(
        "users too short for the history",
        f"{TRAIN} --train.min_history=1000",
        "train.min_history 1000",
        "got at most [0-9]+ items",
        "expected one with more",
    ),
    accepted(
        "L longer than any history", f"{TRAIN} --model.max_history=99", trained(max_history=99)
    ),
    accepted(
        "N larger than the catalogue",
        f"{TRAIN} --loss.num_negatives=500",
        trained(num_negatives=500),
    ),
    accepted("the catalogue, whatever N", f"{TRAIN} --loss.sampler=full", trained(sampler="full")),
    accepted(
        "a batch larger than the users", f"{TRAIN} --train.batch_size=500", trained(batch_size=500)
    ),
    accepted("a warm-up longer than the run", f"{TRAIN} --loss.beta_warmup=9", trained()),
    accepted("a rise longer than the run", f"{TRAIN} --optim.warmup_steps=9", trained()),
    refused(
        "more different negatives than items",
        f"{TRAIN} --loss.replacement=false --loss.num_negatives=500",
        "loss.num_negatives: ",
        "got 500 without replacement",
        "expected at most [0-9]+, the number of items",
        kind=2,
    ),
    accepted(
        "different negatives",
        f"{TRAIN} --loss.replacement=false --loss.num_negatives=20",
        trained(replacement=False),
    ),
    accepted("a rate of 0", f"{TRAIN} --optim.lr=0", trained(lr=0)),
    accepted("the last of two values", f"{TRAIN} --train.seed=5", trained(seed=5)),
    accepted("more users than there are", f"{TRAIN} --train.eval_users=9999", trained()),
]
