"""What `sweep` is given."""

from .case import SMALL, refused

SWEEP = f"sweep data --out out {SMALL}"


def grid(name, lines, where, got, expected):
    """Lines of --grid that are refused, also in a sample."""
    return refused(name, f"{SWEEP} --sample 3 --grid {lines}", where, got, expected, kind=2)


def use(name, words, where, got, expected):
    """Other words that are refused."""
    return refused(name, f"{SWEEP} {words}", where, got, expected, kind=2)


MANY = (
    "loss.beta=0..1 loss.rr_lambda=0..1 loss.sampler_alpha=0..1 optim.lr=0.1..1 model.dim=1..9 "
    "loss.num_negatives=1..9 train.batch_size=1..9"
)
RANGE = "expected key=low..high with two numbers, the lower first"
CASES = [
    refused(
        "a sweep of nothing",
        f"sweep none --out out {SMALL}",
        "none: ",
        "no such file or folder",
        "expected a prepared folder",
    ),
    use("a sweep with a seed below 0", "--seeds -1", "train.seed: ", "got -1", "number >= 0"),
    grid("a range downwards", "loss.beta=10..0.1", "--grid: ", "got 'loss.beta=10..0.1'", RANGE),
    grid("a range of one number", "loss.beta=1..1", "--grid: ", "got 'loss.beta=1..1'", RANGE),
    grid("a range without an end", "loss.beta=1..", "--grid: ", "got 'loss.beta=1..'", RANGE),
    grid("a range of words", "model.name=mind..pop", "--grid: ", "got 'model.name=mind", RANGE),
    grid("a range in a list", "loss.beta=0,1..2", "--grid: ", "got 'loss.beta=0,1..2'", RANGE),
    grid("a range to NaN", "loss.beta=0..nan", "--grid: ", "got 'loss.beta=0..nan'", RANGE),
    grid("a range to infinity", "loss.beta=0..inf", "loss.beta: ", "got inf", "a number"),
    grid("a range from below 0", "loss.beta=-1..1", "loss.beta: ", "got -1", "number >= 0"),
    grid("a range of dim with halves", "model.dim=8..9.5", "model.dim: ", "got 9.5", "a whole"),
    grid("a range of a choice", "loss.mask_hits=0..1", "loss.mask_hits: ", "got 0", "true or"),
    grid("a range of no key", "loss.betta=0..1", "unrecognized", "loss.betta", "mean --loss.beta"),
    grid("a grid of seeds", "train.seed=1,2", "--grid: ", "got 'train.seed=1,2'", "in --seeds"),
    grid("a sample of too many", MANY, "--grid: ", "got 1,007,021,[0-9,]+ comb", "at most 2"),
    use(
        "all of a range", "--grid loss.beta=0..1", "--grid: ", "got a range for loss.beta", "--sam"
    ),
    use("a search of nothing", "--optuna 3", "--optuna: ", "got no --grid", "expected lists or"),
    use("a search of 0", "--optuna 0 --grid loss.beta=0,1", "--optuna: ", "got 0", "1 or more"),
    use(
        "a sample and a search",
        "--optuna 3 --sample 3 --grid loss.beta=0,1",
        "--sample and --optuna: ",
        "got both",
        "expected one",
    ),
]
