"""bench/run_gpu.sh: every piece is known, runs within its limit, is resumed, and is kept."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import pytest

from bench import gpu_pieces, results, run_pieces, training_curve
from bench.gpu_pieces import Piece, chosen, pieces
from bench.run_pieces import CANNOT, FAILED, LATE, PASSED, WAITING, main
from remi_fast.config import Config, TrainConfig

ROOT = Path(__file__).parents[2]
FINE = Piece("fine", "", 60, ("json.tool", "--help"), ())
BAD = Piece("bad", "", 60, ("json.tool", "no/such/file"), ())
# It starts another process, which would write a file later.
LATER = (
    "import subprocess as s, time; s.Popen(['sh', '-c', 'sleep 2; touch $LATE']); time.sleep(60)"
)
SLOW = Piece("slow", "", 1, ("timeit", "-n1", "-r1", LATER), ())
LARGE = Piece("large", "", 60, ("json.tool", "--help"), (), gib=200)
TRAINING = Piece("training", "", 60, ("json.tool", gpu_pieces.DATA), ())


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU with 100 GiB free as far as the runner can see; results and logs are in tmp_path."""
    monkeypatch.setattr(run_pieces, "free_gpu_memory", lambda: 100 << 30)
    monkeypatch.setattr(run_pieces, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setenv("LATE", str(tmp_path / "late"))
    for name in ("OUT", "REMI_FAST_DATA", "REMI_FAST_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *known: monkeypatch.setattr(gpu_pieces, "pieces", lambda: list(known))


def index(tmp_path):
    return json.loads((tmp_path / "results/gpu_pieces.json").read_text(encoding="utf-8"))


def stands(tmp_path):
    return {name: ending["status"] for name, ending in index(tmp_path).items()}


def test_every_piece_has_a_name_and_a_command_of_its_own():
    known = pieces()
    assert len({piece.name for piece in known}) == len(known)
    for piece in known:
        module = piece.command[0]
        assert module == "pytest" or (ROOT / f"{module.replace('.', '/')}.py").is_file()
        assert 60 <= piece.limit <= 420  # below what one call on the lent machine may take
        saved = [b for a, b in zip(piece.command, piece.command[1:], strict=False) if a == "--save"]
        assert piece.is_test or saved == [f"gpu_{piece.name}"]


def test_whatever_runs_natively_on_a_gpu_is_a_piece():
    native = {piece.command[-1] for piece in pieces() if piece.name.startswith("tests-")}
    for name in ("ihn_loss", "deferred_adam_triton", "self_attentive_triton", "capsule_routing"):
        assert f"tests/kernels/test_{name}.py" in native
    assert "tests/data/test_device_loader.py" in native
    assert not any("test_gpu_pieces" in file or "test_compile" in file for file in native)


def test_pieces_are_chosen_by_name_or_by_its_beginning():
    def names(*words):
        return [piece.name for piece in chosen(words)]

    assert names("loss-128x1280", "batches") == ["loss-128x1280", "batches"]
    assert names("update-128") == ["update-128"]
    assert set(names("loss", "loss-128x1280")) == {
        "loss-128x1280",
        "loss-1024x10240",
        "loss-8192x81920",
    }
    assert chosen([]) == pieces()
    with pytest.raises(ValueError, match="got 'nothing', expected of: .* training "):
        chosen(["nothing"])


def test_a_piece_that_fails_or_is_late_does_not_stop_the_others(gpu, tmp_path, capsys):
    gpu(BAD, SLOW, LARGE, TRAINING, FINE)
    assert main([]) == 1
    assert stands(tmp_path) == {
        "bad": FAILED,
        "slow": LATE,
        "large": CANNOT,
        "training": CANNOT,
        "fine": PASSED,
    }
    assert index(tmp_path)["large"]["why"] == "needs 200 GiB of GPU memory, 100 are free"
    assert "REMI_FAST_DATA" in index(tmp_path)["training"]["why"]
    printed = capsys.readouterr().out
    assert "no/such/file" in printed and "needs 200 GiB" in printed
    assert "no/such/file" in (tmp_path / "logs/bad.log").read_text(encoding="utf-8")
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()  # what a late piece has started ends with it


def test_what_has_passed_is_not_run_again(gpu, tmp_path, monkeypatch):
    gpu(FINE, BAD)
    assert main([]) == 1
    ran = []
    monkeypatch.setattr(run_pieces, "run", lambda p, *_: ran.append(p.name) or {"status": PASSED})
    assert main([]) == 0 and ran == ["bad"]
    assert main(["--again"]) == 0 and ran == ["bad", "fine", "bad"]


def waits_for(mine, other, tmp_path):
    """A test that passes only while the other runs, too."""
    file = tmp_path / f"test_{mine}.py"
    file.write_text(
        "import pathlib, time\n"
        "def test_meets():\n"
        f"    here = pathlib.Path({str(tmp_path)!r})\n"
        f"    (here / {mine!r}).touch()\n"
        "    end = time.monotonic() + 30\n"
        f"    while not (here / {other!r}).exists():\n"
        "        assert time.monotonic() < end\n"
        "        time.sleep(0.01)\n",
        encoding="utf-8",
    )
    words = ("pytest", "-q", "-p", "no:cacheprovider", str(file))
    return Piece(f"tests-{mine}", "", 60, words, ())


def test_tests_run_side_by_side_and_measurements_alone(gpu, tmp_path, monkeypatch):
    measured = Piece("measured", "", 60, ("json.tool", "--help"), ())
    gpu(waits_for("a", "b", tmp_path), waits_for("b", "a", tmp_path), measured, FINE)
    active, most = [], []
    run = run_pieces.run

    def watched(piece, *rest):
        if piece.is_test:
            return run(piece, *rest)
        active.append(piece.name)
        ending = run(piece, *rest)
        time.sleep(0.3)
        most.append(len(active))
        active.remove(piece.name)
        return ending

    monkeypatch.setattr(run_pieces, "run", watched)
    assert main(["--jobs", "2"]) == 0
    assert list(stands(tmp_path).values()) == [PASSED] * 4 and most == [1, 1]


def test_ctrl_c_ends_all_that_run(gpu, tmp_path):
    script = (
        "import sys; from bench import gpu_pieces, results, run_pieces as r; "
        "from pathlib import Path; from bench.gpu_pieces import Piece; "
        "here = Path(sys.argv[1]); results.FOLDER = here / 'results'; r.LOGS = here / 'logs'; "
        "r.free_gpu_memory = lambda: 1; "
        "words = ('pytest', '-q', '-p', 'no:cacheprovider', str(here / 'test_it.py')); "
        "known = [Piece(f'tests-{n}', '', 60, words, ()) for n in 'abc']; "
        "gpu_pieces.pieces = lambda: known; sys.exit(r.main(['--jobs', '2']))"
    )
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "def test_waits():\n"
        "    (here / f'pid{os.getpid()}').touch()\n"
        "    time.sleep(60)\n",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell's `&` has it
    )
    end = time.monotonic() + 50
    while len(found := list(tmp_path.glob("pid*"))) < 2:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert len(list(tmp_path.glob("pid*"))) == 2  # the third did not start
    for path in found:
        assert not Path("/proc", path.name.removeprefix("pid")).exists()


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_at_least_one_at_a_time(gpu, jobs, capsys):
    gpu(FINE)
    with pytest.raises(SystemExit) as stopped:
        main([f"--jobs={jobs}"])
    assert stopped.value.code == 2
    assert f"--jobs: got '{jobs}', expected a number from 1" in capsys.readouterr().err


def test_no_piece_starts_that_could_end_too_late(gpu, tmp_path, capsys):
    gpu(FINE)
    assert main(["--within", "59"]) == 1
    assert WAITING in capsys.readouterr().out and not (tmp_path / "results").exists()
    assert main(["--within", "59", "--limit", "50"]) == 0


def test_only_what_cannot_run_is_no_failure(gpu):
    gpu(LARGE, FINE)
    assert main([]) == 0


def test_data_and_results_have_their_places_in_the_environment(gpu, tmp_path, monkeypatch):
    data = tmp_path / "data.json"
    data.write_text("{}", encoding="utf-8")
    monkeypatch.setenv("REMI_FAST_DATA", str(data))
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    gpu(TRAINING)
    assert main([]) == 0
    with tarfile.open(tmp_path / "out/gpu_results.tgz") as archive:
        assert sorted(archive.getnames()) == ["gpu_pieces.json", "training.log"]


def test_tests_are_kept_with_numbers_and_reasons(gpu, tmp_path):
    text = (
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert 0\n"
        "@pytest.mark.skip(reason='needs luck')\n"
        "def test_c(): pass\n"
    )
    gpu(a_test(tmp_path, text))
    assert main([]) == 1
    kept = json.loads((tmp_path / "results/gpu_tests-it.json").read_text(encoding="utf-8"))
    assert kept["results"]["tests"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert kept["results"]["failed"] == ["test_b"]
    assert kept["results"]["skipped because"] == ["needs luck"]
    assert kept["commit"] and kept["environment"]["torch"]


def a_test(tmp_path, text, limit=60):
    (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
    words = ("pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "test_it.py"))
    return Piece("tests-it", "", limit, words, ())


def test_where_no_test_ran_nothing_has_passed(gpu, tmp_path):
    skipped = "import pytest\n@pytest.mark.skip(reason='needs luck')\ndef test_a(): pass\n"
    gpu(a_test(tmp_path, skipped))
    assert main([]) == 0
    assert index(tmp_path)["tests-it"]["status"] == CANNOT
    assert index(tmp_path)["tests-it"]["why"] == "no test ran: needs luck"


def test_of_tests_that_are_late_those_before_are_kept(gpu, tmp_path):
    slow = (
        "import pathlib, time\n"
        "def test_a(): pass\n"
        "def test_b():\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(60)\n"
    )
    gpu(a_test(tmp_path, slow, limit=15))
    assert main([]) == 1
    assert (tmp_path / "begun").exists(), "the machine is too busy: it had not begun"
    kept = json.loads((tmp_path / "results/gpu_tests-it.json").read_text(encoding="utf-8"))
    assert kept["results"]["status"] == LATE
    assert kept["results"]["tests"] == {"passed": 1, "failed": 0, "skipped": 0}


def test_what_watches_others_has_to_be_there(gpu, tmp_path):
    gpu(Piece("watched", "", 60, ("json.tool", "--help"), (), under=("no-such-program",)))
    assert main([]) == 0
    assert index(tmp_path)["watched"]["why"] == "no-such-program is not installed"


def test_without_a_gpu_nothing_runs(gpu, tmp_path, monkeypatch, capsys):
    gpu(FINE)
    monkeypatch.setattr(run_pieces, "free_gpu_memory", lambda: 0)
    assert main([]) == 1 and "no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_script_plans():
    command = ["sh", "bench/run_gpu.sh", "--plan", "loss"]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert [line.split()[:2] for line in done.stdout.splitlines()[:3]] == [
        ["loss-128x1280", "240"],
        ["loss-1024x10240", "240"],
        ["loss-8192x81920", "240"],
    ]
    assert done.stdout.splitlines()[3] == "3 pieces, 720 s at most"


def bare(*arguments, **variables):
    """Run Python as on a machine with little more than torch."""
    environment = os.environ | {
        "PYTHONPATH": f"{Path(__file__).parent / 'bare'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    environment.pop("OUT", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_pieces_import_little_more_than_torch():
    modules = sorted({piece.command[0] for piece in pieces()})
    assert {"pytest", "bench.in_turns", "bench.large_catalogue"} <= set(modules)
    tests = [piece.command[-1] for piece in pieces() if piece.name.startswith("tests-")]
    names = [test.removesuffix(".py").replace("/", ".") for test in tests]
    done = bare("-c", f"import {', '.join(modules + names)}")
    assert done.returncode == 0, done.stderr


def test_pieces_run_with_little_more_than_torch(dataset, tmp_path, at_scale):
    """In their small forms; with --full all of them."""
    few = ["steps-8192-10000000", "training"]
    data, kept = str(dataset.path), str(tmp_path)
    done = bare(
        *("-m", "bench.run_pieces", "--rehearse", *at_scale(few, [])),
        REMI_FAST_DATA=data,
        REMI_FAST_RESULTS=kept,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in few:
        assert (tmp_path / f"gpu_{name}.json").is_file()


def test_little_more_than_torch_is_what_it_says():
    absent = ("polars", "yaml", "rich", "jsonargparse", "hypothesis", "tensorboard", "matplotlib")
    done = bare("-c", f"from importlib.util import find_spec as f; print(*map(f, {absent}))")
    assert done.stdout.split() == ["None"] * len(absent)


def test_results_do_not_make_the_commit_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "__file__", str(tmp_path / "bench" / "results.py"))
    (tmp_path / "bench" / "results").mkdir(parents=True)
    code, saved = tmp_path / "code.py", tmp_path / "bench" / "results" / "x.json"
    for file in (code, saved):
        file.write_text("1", encoding="utf-8")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    clean = results.commit()
    assert len(clean) == 12
    saved.write_text("2", encoding="utf-8")
    assert results.commit() == clean
    code.write_text("2", encoding="utf-8")
    assert results.commit() == f"{clean}-dirty"


def test_the_commit_comes_from_the_environment_where_there_is_no_git(monkeypatch):
    assert results.commit() not in ("", "abc123")
    monkeypatch.setenv("PATH", "/nowhere")
    assert results.commit() == "unknown"
    monkeypatch.setenv("REMI_FAST_COMMIT", "abc123")
    assert results.commit() == "abc123"


def test_a_training_that_takes_too_long_leaves_its_curve(dataset, tmp_path, monkeypatch):
    class AfterAValidation(threading.Timer):
        """Fires when one is on file, however busy the machine is."""

        def run(self):
            end = time.monotonic() + 100
            while not any('"valid"' in x.read_text() for x in tmp_path.glob("*/run/metrics.jsonl")):
                assert time.monotonic() < end
                time.sleep(0.05)
            intervals.append(self.interval)
            self.function(*self.args)

    intervals = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(threading, "Timer", AfterAValidation)
    config = Config(train=TrainConfig(steps=10**8, eval_every=10, batch_size=8, patience=10**6))
    found = training_curve.train(dataset.path, config, most_seconds=4.0)
    assert found["result"]["interrupted"] and intervals == [4.0]
    valid = [point["step"] for point in found["curve"] if point["split"] == "valid"]
    assert valid == list(range(10, 10 * len(valid) + 1, 10)) and valid
    json.dumps(found)


def test_a_training_is_kept_with_its_times(dataset):
    config = Config(train=TrainConfig(steps=100, eval_every=50, batch_size=8))
    found = training_curve.train(dataset.path, config, most_seconds=1e6)
    assert 0 < found["steps alone, s"] < found["in all, s"] + 0.1
    assert found["samples/s"] == pytest.approx(800 / found["steps alone, s"], rel=0.05)
    assert found["result"]["test"]["recall@50"] >= 0
    assert [p["step"] for p in found["curve"] if p["split"] == "valid"] == [50, 100]
