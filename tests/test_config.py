"""One configuration system: presets, files, options, and errors that name the nearest key."""

import sys

import pytest
import yaml

from remi_fast.config import (
    Config,
    LossConfig,
    OptimConfig,
    as_dict,
    as_yaml,
    load_config,
    nearest,
    preset_names,
    preset_path,
)
from remi_fast.errors import ConfigError


def write(path, text):
    path.write_text(text)
    return path


def test_file_then_options(tmp_path):
    file = write(tmp_path / "c.yaml", "loss: {beta: 10}\ntrain: {steps: 7, seed: 3}\n")
    config = load_config(file, ("--train.steps=9",))
    assert (config.loss.beta, config.train.steps, config.train.seed) == (10.0, 9, 3)
    assert config.model == Config().model


def test_resolved_configuration_is_itself_a_config_file(tmp_path):
    config = load_config(preset_path("gowalla"), ("--optim.lr=0.01",))
    file = write(tmp_path / "c.yaml", yaml.safe_dump(as_dict(config)))
    assert load_config(file) == config


@pytest.mark.parametrize(
    "text, message",
    [
        ("loss: {betta: 1}", "did you mean loss.beta?"),
        ("trian: {steps: 1}", "did you mean train"),
        ("train: {steps: many}", "many"),
        ("train: {steps: 0}", "train.steps: got 0, expected a whole number >= 1"),
        ("loss: {beta: -1}", "loss.beta: got -1"),
        ("loss: {beta: .nan}", "loss.beta: got nan"),
        ("loss: {name: gbce}", "loss.beta: got 1.0 with loss.name 'gbce', expected 0"),
        ("model: {name: comirec}", "comirec-sa"),
        ("optim: {lr: null}", "optim.lr: got null, expected a value"),
        ("loss: {mask_hits: }", "loss.mask_hits: got null, expected a value"),
        ("train: {seed: 9223372036854775808}", "train.seed"),
    ],
)
def test_errors(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_presets_load(name):
    config = load_config(preset_path(name))
    published = {"amazon-books": (10, 20), "gowalla": (1, 40), "retailrocket": (0.1, 20)}
    if name in published:
        assert (config.loss.beta, config.model.max_history) == published[name]
        assert (config.loss.rr_lambda, config.loss.num_negatives) == (100, 1280)
    else:
        assert name in ("demo", "small-catalogue")


def test_a_key_of_another_section_is_found(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean optim\.lr\?"):
        load_config(write(tmp_path / "c.yaml", "train: {lr: 0.1}"))


def test_unknown_preset():
    with pytest.raises(ConfigError, match="did you mean gowalla?"):
        preset_path("gowala")


def test_nearest_of_nothing_alike():
    assert nearest("xyz", ["beta", "steps"]) == ""


def test_the_configuration_is_written_without_pyyaml_too(tmp_path, monkeypatch):
    config = Config(optim=OptimConfig(lr=1e-5), loss=LossConfig(rr_lambda=0.0))
    monkeypatch.setitem(sys.modules, "yaml", None)
    text = as_yaml(config)
    monkeypatch.undo()
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    assert text.startswith("{") and load_config(file) == config
