"""The documentation: the site builds strictly, what it shows runs, what it quotes is there."""

import ast
import dataclasses
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
import torch

from remi_fast.cli import COMMANDS, bench, understood
from remi_fast.config import Config, preset_names
from remi_fast.errors import ConfigError
from remi_fast.export import export_run

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def build(root, site):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
    ]  # --quiet hides warnings from it
    command += ["--config-file", str(root / "docs/site/mkdocs.yml"), "--site-dir", str(site)]
    environment = {"PYTHONPATH": str(root), "NO_MKDOCS_2_WARNING": "1", "PATH": ""}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(tmp_path):
    """The repository, to break."""
    ignored = shutil.ignore_patterns(".*", "*.so", "build", "runs", "tests", "csrc", "__pycache__")
    return shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("docs/index.md", "[gone](gone.md)", "gone.md"),
        ("docs/index.md", "[gone](../kernels/gone.py)", "gone.py"),
        ("docs/index.md", "[gone](formats.md#gone)", "#gone"),
        ("README.md", "[gone](docs/gone.md)\n\n## Limits", "gone.md"),  # before the real one
        ("CONTRIBUTING.md", "[gone](docs/gone.md)", "gone.md"),
        ("docs/new.md", "# Not in the navigation", "new.md"),
        ("docs/site/mkdocs.yml", "  - Gone: gone.md", "gone.md"),
    ],
)
def test_what_is_broken_fails_the_build(copy, tmp_path, file, text, said):
    path = copy / file
    before = path.read_text() if path.exists() else ""
    if file == "README.md":
        path.write_text(before.replace("## Limits", text))
    else:
        path.write_text(f"{before}\n{text}\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert said in done.stderr + done.stdout


def test_links_lead_somewhere_on_github():
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "bench/README.md"]:
        for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


class Loads(HTMLParser):
    """What a page makes a browser load: URLs of scripts, styles, pictures, frames."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "link" and values.get("rel") not in ("next", "prev", "canonical"):
            self.urls.append(values["href"])
        elif tag != "a":
            self.urls += [values[name] for name in ("src", "srcset", "data") if values.get(name)]


def test_pages_load_nothing_from_the_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.urls, page
        assert not [url for url in loads.urls if re.match(r"\w+:|//", url)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style


def test_pages_are_searched(site):
    index = json.loads((site / "search/search_index.json").read_text())
    titles = {entry["title"] for entry in index["docs"]}
    assert {"loss.beta_warmup", "Checkpoints", "DeferredAdam", "small-catalogue"} <= titles
    assert "warmup" in re.split(index["config"]["separator"], "loss.beta_warmup")


def test_every_key_is_in_the_configuration(site):
    assert not (DOCS / "configuration.md").exists()  # it is made of the code
    page = (site / "configuration.html").read_text()
    for section in dataclasses.fields(Config):
        for key in dataclasses.fields(section.type):
            entry = re.search(rf'id="{section.name}{key.name}">.*?(?=<h[23]|</article)', page, re.S)
            assert entry, key.name
            default = json.dumps(key.default).strip('"')
            assert f"<code>{default}</code> by default, " in entry[0], key.name
            paragraphs = [len(text) > 10 for text in re.findall(r"<p>(.*?)</p>", entry[0], re.S)]
            assert paragraphs == [True, True], key.name  # what it may be, what it means
    for preset in preset_names():
        assert f'<h3 id="{preset}">' in page


def test_every_option_is_in_the_commands(site):
    page = (site / "commands.html").read_text()
    for command in COMMANDS:
        entry = re.search(rf'id="{command}">.*?(?=<h2|</article)', page, re.S)
        module = import_module(f"remi_fast.cli.{command}")
        if module is bench:
            continue
        source = inspect.getsource(module.add_arguments)
        options = re.findall(r"add_argument\(\s*\"(--[a-z-]+)", source)
        assert options and all(f"<code>{option}" in entry[0] for option in options), command
    for part in bench.PARTS:
        entry = re.search(rf'id="bench-{part}">.*?(?=<h[23]|</article)', page, re.S)
        assert all(f"<code>{option}" in entry[0] for option in bench.options_of(part)), part


def test_numbers_are_those_of_the_readme(site):
    readme = (ROOT / "README.md").read_text().partition("## Results")[2].partition("## Limits")[0]
    page = re.sub(r"<[^>]+>", "", (site / "benchmarks.html").read_text())
    numbers = set(re.findall(r"\d+\.\d+", readme))
    assert len(numbers) > 50
    assert numbers <= set(re.findall(r"\d+\.\d+", page))
    for result in (ROOT / "bench/results").glob("*.json"):
        assert (site / "repository/bench/results" / result.name).read_text() == result.read_text()


# --- code blocks ---------------------------------------------------------------------------------


def published_checkpoint():
    """What the published code saves of a ComiRec-SA: I 7, d 8, L 5, K 2."""
    shapes = {
        "embeddings.weight": (7, 8),
        "position_embedding": (1, 5, 8),
        "linear1.0.weight": (32, 8),
        "linear2.weight": (2, 32),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def run_blocks(page, first=None):
    """Run the (first) Python blocks of a page, one after another; return what they defined."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    assert blocks
    defined = {}
    for number, block in enumerate(blocks[:first], 1):
        exec(compile(block, f"{page}, block {number}", "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What library.md defines, and the folder it left runs/demo in."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_blocks("library.md"), folder


def test_library(library):
    defined, _ = library
    assert defined["recommended"]["rank"].to_list() == [1, 2, 3, 4, 5]
    assert set(defined["filtered"]["item_id"]) <= set(defined["allowed"])
    assert defined["by_faiss"].height == defined["diverse"].height == 5
    assert defined["result"]["test"]["recall@50"] > 0.2
    again = defined["loss"](
        defined["interests"],
        defined["target_ids"],
        defined["item_embedding"].weight,
        routing=defined["routing"],
        step=0,
    )
    torch.testing.assert_close(again, defined["total"])  # the page says that they are the same


def test_evaluation(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(library[1] / "runs/demo", "runs/beauty")
    found = run_blocks("evaluation.md")["found"]
    assert set(found) >= {"metrics", "groups", "diversity"}


def test_export(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_run(library[1] / "runs/demo", "exported")
    export = run_blocks("export.md", first=1)["export"]
    assert export.items.height == len(export.item_embeddings()) - 1


def test_extending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_blocks("extending.md")["data"].num_users == 50


def test_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [(user, f"item-{i % 11}") for user in range(20) for i in range(user, user + 8)]
    schema = ["user_id", "item_id"]
    pl.DataFrame(rows, schema=schema, orient="row").write_csv("interactions.csv")
    assert run_blocks("formats.md")["raw_ids"].to_list() == [f"item-{i}" for i in range(8)]


def test_a_published_checkpoint_is_carried_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = published_checkpoint()
    torch.save(theirs, "model.pt")
    Path("book_item_map.txt").write_text("".join(f"book-{i},{i}\n" for i in range(1, 7)))
    recommender = run_blocks("migration.md")["recommender"]
    history = torch.tensor([[3, 1, 6, 0, 0]])
    embedded = theirs["embeddings.weight"][history] * (history > 0)[..., None]
    hidden = torch.tanh((embedded + theirs["position_embedding"]) @ theirs["linear1.0.weight"].T)
    scores = (hidden @ theirs["linear2.weight"].T).masked_fill((history == 0)[..., None], -1e9)
    expected = scores.softmax(dim=1).transpose(1, 2) @ embedded
    got = recommender.model.interests(history, torch.tensor([3]))
    torch.testing.assert_close(got, expected)
    histories = pl.DataFrame({"user_id": [1, 1, 1], "item_id": ["book-3", "book-1", "book-6"]})
    best = (expected[0] @ theirs["embeddings.weight"][1:].T).amax(0).argmax() + 1
    assert recommender.recommend(histories, k=1)["item_id"].to_list() == [f"book-{best}"]


# --- commands ------------------------------------------------------------------------------------


def commands():
    """The commands that README and pages show, as words."""
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ {4}remi-fast (.+)$", text, re.M):
            yield page.name, shlex.split(line, comments=True)


def test_commands_are_understood():
    shown = list(commands())
    assert {words[0] for _, words in shown} >= COMMANDS.keys()
    for page, (command, *words) in shown:
        try:
            understood(command, words)
        except ConfigError as error:
            missing = re.search(r"\S+\.yaml", str(error))  # a file of the reader's
            assert missing and missing[0] in words, f"{page}: {command} {words}: {error}"


def test_options_are_keys():
    keys = {
        f"{section.name}.{key.name}"
        for section in dataclasses.fields(Config)
        for key in dataclasses.fields(section.type)
    }
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        text = re.sub(r"```text.*?```", "", page.read_text(), flags=re.S).replace("betta", "beta")
        assert set(re.findall(r"--((?:model|loss|optim|train)\.\w+)", text)) <= keys, page


# --- messages ------------------------------------------------------------------------------------


def template(node):
    """A text in the source as a regular expression; None where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = re.split(r"%[ds]", node.value)  # of the warnings
        return ".*".join(re.escape(part) for part in parts)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value) or ".*" for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or ".*") + (right or ".*")
    return None


def sources_of_messages():
    files = [*ROOT.glob("kernels/*.py"), *ROOT.glob("remi_fast/**/*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            found = template(node)
            if found and len(found.replace(".*", "")) >= 20:
                yield re.compile(found, re.S)


def test_messages_occur_in_the_code():
    page = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^```text\n(.*)\n```$", page, re.M)
    assert len(messages) > 30
    sources = set(sources_of_messages())
    gone = [each for each in messages if not any(source.fullmatch(each) for source in sources)]
    assert not gone
