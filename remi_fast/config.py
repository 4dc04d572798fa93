"""The configuration: every key, its default and its meaning, in one place.

Packaged presets < `--config FILE` (YAML) < dotted options; jsonargparse does the merging. Defaults
are the published settings of REMI (RecSys 2023).
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from remi_fast.errors import ConfigError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PRESETS = Path(__file__).parent / "presets"
_MAX_CONFIG = 64 << 10  # bytes of a configuration file; all keys take a few KB
_MAX_SCALAR = 1000  # characters of a value
_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}
DEMO = "demo"  # name of the generated dataset, and of the preset that goes with it


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model.

    Args:
        name: What turns a history into interests; dnn, gru4rec and pop are baselines with one
            vector per user and no routing (num_interests and rr_lambda are ignored).
        dim: Embedding size d.
        num_interests: Interests (vectors) per user, K.
        max_history: Most recent items of a history that are used, L.
    """

    name: Literal["comirec-sa", "comirec-dr", "mind", "dnn", "gru4rec", "pop"] = "comirec-sa"
    dim: int = 64
    num_interests: int = 4
    max_history: int = 20

    def __post_init__(self) -> None:
        _check_types("model", self)
        for name in ("dim", "num_interests", "max_history"):
            _whole(f"model.{name}", getattr(self, name), 1, 2**31)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss. beta 0 and rr_lambda 0 is the plain sampled softmax.

    What belongs to a choice that is not taken (gbce_t without gbce, selection_tau without soft,
    sampler_alpha without popularity, num_negatives with in-batch and full, beta_warmup with beta 0)
    has no effect.

    Args:
        name: ihn, or the baseline gbce (gSASRec's generalised binary cross entropy), which takes
            uniform negatives and has no hardness, so beta must be 0.
        beta: Hardness of the negatives (IHN); 0 weighs all of them equally.
        beta_warmup: Steps over which beta rises linearly from 0; 0: no warm-up.
        selection: Which interest is trained for a target: hard (the nearest), or soft (BaM: drawn
            by the softmax of selection_tau times the inner products).
        selection_tau: Sharpness of soft selection: 0 draws all equally, larger is nearer to hard.
        gbce_t: Calibration of gbce, from 0 (plain binary cross entropy) to 1 (the target's weight
            is the share of all negatives that is sampled).
        rr_lambda: Strength of the routing regularizer (RR); 0 turns it off.
        num_negatives: Negatives drawn per step, N, shared by the whole batch.
        sampler: Distribution of the negatives: uniform, log-uniform (by rank), popularity, in-batch
            (the other targets of the batch), mixed (uniform and in-batch), each corrected for its
            probabilities; or full: every item is a negative, and beta 0
            is the full softmax.
        sampler_alpha: Exponent of the popularity sampler.
        replacement: Draw uniform negatives with replacement; without, all N of a step differ.
        mask_hits: Leave out negatives that are the row's own target (always with in-batch, mixed
            and full).
        detach_weights: Treat the importance weights of IHN as constants.
    """

    name: Literal["ihn", "gbce"] = "ihn"
    beta: float = 1.0
    beta_warmup: int = 0
    selection: Literal["hard", "soft"] = "hard"
    selection_tau: float = 1.0
    gbce_t: float = 0.75
    rr_lambda: float = 100.0
    num_negatives: int = 1280
    sampler: Literal["uniform", "log-uniform", "popularity", "in-batch", "mixed", "full"] = (
        "uniform"
    )
    sampler_alpha: float = 0.75
    replacement: bool = True
    mask_hits: bool = False
    detach_weights: bool = False

    def __post_init__(self) -> None:
        _check_types("loss", self)
        _at_least("loss.beta", self.beta, 0)
        _whole("loss.beta_warmup", self.beta_warmup, 0)
        _at_least("loss.selection_tau", self.selection_tau, 0)
        _at_least("loss.rr_lambda", self.rr_lambda, 0)
        _whole("loss.num_negatives", self.num_negatives, 1, 2**31)
        _at_least("loss.sampler_alpha", self.sampler_alpha, 0)
        if not 0 <= self.gbce_t <= 1:
            raise ConfigError(f"loss.gbce_t: got {self.gbce_t}, expected a number from 0 to 1")
        if self.name == "gbce":
            self._check_gbce()
        if not self.replacement and self.sampler != "uniform":
            raise ConfigError(
                f"loss.replacement: got False with loss.sampler {self.sampler!r}, expected True: "
                "only uniform negatives are drawn without replacement"
            )

    def _check_gbce(self) -> None:
        """Raise ConfigError for what gbce cannot be asked for: the run would not be what it says.

        What only sets up something that is not in use (an exponent of another sampler, say) passes,
        for the sake of presets and sweeps.
        """
        meant: dict[str, Any] = {
            "beta": 0,
            "beta_warmup": 0,
            "detach_weights": False,
            "sampler": "uniform",
        }
        for key, expected in meant.items():
            if (got := getattr(self, key)) != expected:
                raise ConfigError(
                    f"loss.{key}: got {got!r} with loss.name 'gbce', expected {expected!r}: "
                    "it has no hardness, and its negatives are uniform"
                )

    def beta_at(self, step: int) -> float:
        """beta of a training step, counted from 0: a function of the step alone."""
        if step >= self.beta_warmup:
            return self.beta
        return self.beta * (step / self.beta_warmup)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer: Adam, for the item table and the extractor alike.

    Args:
        lr: Peak learning rate.
        schedule: The rate after the warm-up: constant, or falling to 0 at train.steps, linearly or
            as half a cosine.
        warmup_steps: Steps over which the rate rises linearly to lr.
    """

    lr: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check_types("optim", self)
        _at_least("optim.lr", self.lr, 0)
        _whole("optim.warmup_steps", self.warmup_steps, 0)

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of a training step of `steps`, counted from 0: a function of both alone."""
        if step < self.warmup_steps:
            return self.lr * ((step + 1) / self.warmup_steps)
        if self.schedule == "constant":
            return self.lr
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.lr * left


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training run.

    Args:
        batch_size: Samples per step, B.
        steps: Maximum number of training steps.
        eval_every: Steps between validations.
        eval_users: Validation users evaluated each time (an even sample); 0: all users.
        checkpoints: What to keep: all, best (the best weights only; such a run cannot be resumed),
            or none (the last weights are tested).
        checkpoint_every: Steps between checkpoints; 0: at every validation.
        patience: Validations without a better recall@50 before training stops.
        sampling: uniform (a uniform user, then a uniform position) or epoch (each target once).
        min_history: Minimum number of items before a training target.
        seed: Seed of everything random.
        device: Where to train; auto: a GPU if there is one that can train these settings.
        backend: Implementation of the operations; auto: the fastest available.
        precision: Arithmetic of the training step's matrix products; fp32 only on a CPU.
        threads: CPU threads; 0: one per core.
    """

    batch_size: int = 128
    steps: int = 1_000_000
    eval_every: int = 1000
    eval_users: int = 0
    checkpoints: Literal["all", "best", "none"] = "all"
    checkpoint_every: int = 0
    patience: int = 50
    sampling: Literal["uniform", "epoch"] = "uniform"
    min_history: int = 4
    seed: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "native", "reference", "triton"] = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    threads: int = 0

    def __post_init__(self) -> None:
        _check_types("train", self)
        for name in ("batch_size", "eval_every", "patience", "min_history"):
            _whole(f"train.{name}", getattr(self, name), 1, 2**31)
        _whole("train.steps", self.steps, 1, 2**31 - 1)
        for name in ("eval_users", "checkpoint_every"):
            _whole(f"train.{name}", getattr(self, name), 0, 2**31)
        _whole("train.seed", self.seed, 0)
        _whole("train.threads", self.threads, 0, 1025)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run, besides the data.

    Args:
        model: The model.
        loss: The loss.
        optim: The optimizer.
        train: The training run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            got, kind = getattr(self, each.name), cast(Any, each.type)
            if not isinstance(got, kind):
                raise ConfigError(f"{each.name}: got {got!r:.100}, expected a {kind.__name__}")
        if self.loss.sampler == "in-batch" and self.train.batch_size == 1:
            raise ConfigError(
                "train.batch_size: got 1 with loss.sampler 'in-batch', expected 2 or more: "
                "the negatives are the targets of the others"
            )


def _check_types(section: str, config: Any) -> None:
    for each in dataclasses.fields(config):
        value, kind = getattr(config, each.name), cast(Any, each.type)
        if kind in _EXPECTED:
            kinds = (int, float) if kind is float else (kind,)
            fits = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
        else:
            fits = value in get_args(kind)
        if not fits:
            expected = _EXPECTED.get(kind) or f"one of {', '.join(get_args(kind))}"
            raise ConfigError(f"{section}.{each.name}: got {value!r}, expected {expected}")


def _at_least(
    key: str, value: float, least: float, end: int = 2**63, kind: str = "a finite number"
) -> None:
    if not least <= value < end:
        most = "2^63" if end == 2**63 else end
        raise ConfigError(f"{key}: got {value}, expected {kind} >= {least} and less than {most}")


def _whole(key: str, value: int, least: int, end: int = 2**63) -> None:
    _at_least(key, value, least, end, _EXPECTED[int])


def preset_names() -> list[str]:
    """Names of the packaged presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """File of a packaged preset; ConfigError, with the nearest name, if there is none."""
    if name not in preset_names():
        raise ConfigError(
            f"preset: got {name!r}, expected one of: {', '.join(preset_names())}"
            + nearest(name, preset_names())
        )
    return PRESETS / f"{name}.yaml"


def add_config_arguments(parser: "ArgumentParser") -> None:
    """Add every configuration key to a jsonargparse parser as a dotted option."""
    parser.add_class_arguments(Config)


def load_config(file: Path, options: tuple[str, ...] = ()) -> Config:
    """A YAML file, then dotted options (`--loss.beta=0.1`), over the defaults.

    Raises ConfigError naming file or key, what was got and what was expected.
    """
    check_config_file(file)
    parser = _file_parser()
    words = ["--config", str(file)]
    try:
        config = config_from_namespace(parse(parser, words))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return config_from_namespace(parse(parser, [*words, *options])) if options else config


def with_options(config: Config, options: Iterable[str]) -> Config:
    """Dotted options over a configuration. Raises ConfigError as `load_config`."""
    given = [
        f"--{section}.{key}={value}"
        for section, values in as_dict(config).items()
        for key, value in values.items()
    ]
    return config_from_namespace(parse(_file_parser(), [*given, *options]))


@cache
def _file_parser() -> "ArgumentParser":
    from jsonargparse import ActionConfigFile, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    add_config_arguments(parser)
    return parser


def check_config_file(file: Path) -> None:
    """Raise ConfigError unless the file is plain YAML of this form: sections of keys, each once.

    jsonargparse and YAML know more: other files, anchors that grow without bound, tags.
    """
    import yaml

    try:
        if not file.is_file():
            raise ConfigError(f"{file}: no such file, expected a YAML file of settings")
        if (size := file.stat().st_size) > _MAX_CONFIG:
            raise ConfigError(f"{file}: got {size} bytes, expected at most {_MAX_CONFIG}")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            plain = getattr(event, "anchor", None) is None and getattr(event, "tag", None) is None
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            plain &= len(getattr(event, "value", "")) <= _MAX_SCALAR
            if not plain or depth > 2:
                assert event.start_mark is not None
                raise ConfigError(
                    f"{file}:{event.start_mark.line + 1}: got a YAML anchor, alias, tag, deeper "
                    f"nesting or a value of more than {_MAX_SCALAR} characters, expected sections, "
                    "keys and plain values"
                )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    sections = [section.name for section in dataclasses.fields(Config)]
    for name, values in _pairs(file, root, "the file").items():
        section, _, key = name.partition(".")
        if section not in sections:
            raise ConfigError(
                f"{file}: got the key {name!r:.100}, expected one of: {', '.join(sections)}"
                + nearest(name, sections)
            )
        if not key:
            _pairs(file, values, name)


def _pairs(file: Path, node: Any, name: str) -> dict[str, Any]:
    """The keys and value nodes of a YAML mapping."""
    if node is None or node.id != "mapping":
        value = node.value if node else ""
        what = "a list" if isinstance(value, list) else f"{value!r:.100}" if value else "nothing"
        raise ConfigError(
            f"{file}: {name}: got {what}, expected a mapping of keys to values, "
            "such as loss: {beta: 1}"
        )
    pairs: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key.value, str) or key.value in pairs:
            raise ConfigError(
                f"{file}:{key.start_mark.line + 1}: got the key {str(key.value)!r:.100} twice, or "
                "not as text, expected every key once"
            )
        pairs[key.value] = value
    return pairs


def parse(parser: "ArgumentParser", arguments: list[str]) -> Any:
    """`parser.parse_args`, with errors as ConfigError that name the nearest known key."""
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except (ArgumentError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        known = [option for a in parser._actions for option in a.option_strings]
        raise ConfigError(_in_our_words(message, known) + _nearest_key(message, known)) from None


def _in_our_words(message: str, known: list[str]) -> str:
    """What argparse and jsonargparse say, as `_check_types` has it, with the names of options."""
    if found := re.fullmatch(r"(the following arguments are required: )(.*)", message):
        return found[1] + ", ".join(_option(name, known) for name in found[2].split(", "))
    if found := re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
        return _one_of(found[1], found[2], found[3])
    if found := re.fullmatch(r"argument (\S+): expected (one|at least one) argument", message):
        return f"{found[1]}: got nothing, expected a value after it"
    found = re.match(r'Parser key "([\w.]+)".*?: Expected an? (.+?)\. Got value: ?(.*)', message)
    if not found:
        return message
    key, expected, got = _option(found[1], known), found[2], found[3] or "nothing"
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", expected):
        return _one_of(key, got, choices[1])
    for kind, words in _EXPECTED.items():
        expected = expected.replace(f"<class '{kind.__name__}'>", words)
    return f"{key}: got {got}, expected {expected}"


def _option(name: str, known: list[str]) -> str:
    """`batch_size` as --batch-size, where that is an option; other names as they are."""
    option = f"--{name.replace('_', '-')}"
    return option if option in known and "." not in name else name


def _one_of(key: str, got: str, choices: str) -> str:
    names = choices.replace("'", "").split(", ")
    return f"{key}: got {got}, expected one of {', '.join(names)}" + nearest(got.strip("'"), names)


def config_from_namespace(namespace: Any) -> Config:
    """Make the (validated) Config of a parsed namespace that may hold other arguments too."""
    sections = {}
    for section in dataclasses.fields(Config):
        values = vars(namespace[section.name])
        for key, value in values.items():
            if value is None:  # jsonargparse takes null for any type
                raise ConfigError(f"{section.name}.{key}: got null, expected a value")
        sections[section.name] = cast(Any, section.type)(**values)
    return Config(**sections)


def _nearest_key(message: str, options: list[str]) -> str:
    """The option that may be meant on the command line, or the key in a file."""
    keys = [option.lstrip("-") for option in options]
    for pattern, known in (
        (r"unrecognized arguments?: (--[\w.-]+)", [f"--{key}" for key in keys]),
        (r"Option '([\w.]+)' is not accepted", keys),
        (r"(?:[Gg]roup '(\w+)' )?does not accept option '([\w.]+)'", keys),
    ):
        if unknown := re.search(pattern, message):
            word = ".".join(part for part in unknown.groups() if part)
            _, dot, key = word.rpartition(".")
            elsewhere = [each for each in known if dot and each.rpartition(".")[2] == key]
            return f"; did you mean {elsewhere[0]}?" if elsewhere else nearest(word, known)
    return ""


def as_yaml(config: Config) -> str:
    """The configuration as `config.yaml` holds it, and `load_config` reads it."""
    try:
        import yaml
    except ImportError:  # a machine with little more than torch: JSON is YAML, too
        return json.dumps(as_dict(config), indent=1) + "\n"
    return yaml.safe_dump(as_dict(config), sort_keys=False)


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values."""
    return dataclasses.asdict(config)
