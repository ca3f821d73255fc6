"""Experiments: the loop against a loop by hand, code restored from patches, and runs that are killed, resumed, and end the same to the bit.

A child process stands for a run that dies: it is forked, and ends without any clean-up at a given write, fsync or rename, or is killed."""
import ast
import builtins
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from nbclient import NotebookClient
from safetensors.torch import save_file
from scipy import stats
from torch import nn
from torch.nn import functional as F

from practitioner import experiments
from practitioner.experiments import (
    Curves, Diverged, Run, begin, cells_run, choose_device, choose_dtype, code_state, differences, draw_curves, due, evaluated, digest_of, git, gradient,
    load_tokens, paired_interval, read_checkpoint, restore_code, resume, runs_in, save, save_tokens, seed_everything, state_of, to_device, train, write_checkpoint)
from practitioner.network import NeuralNGram, Windows, next_token_loss

ROOT = pathlib.Path(__file__).resolve().parent.parent
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")
settings.register_profile("experiments", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("experiments")
TOKENS = np.random.default_rng(0).integers(0, 16, size=2000).astype(np.uint8)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("PRACTITIONER_MODE", "test")


def begun(folder, repository=ROOT, **what):
    """A run begun in `folder`, without the warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return begin(folder, repository=repository, **dict(seed=0) | what)


def set_up(seed=0, kind=torch.optim.AdamW, **options):
    seed_everything(seed)
    model = NeuralNGram(16, context=3, n_embd=4, n_hidden=8, dropout=0.2)
    return model, Windows(TOKENS, 16, 4, seed=seed), kind(model.parameters(), **{"lr": 0.01} | options)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()]).clone()


# Data

@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_tokens_come_back_memory_mapped(tmp_path, dtype):
    tokens = np.arange(200, dtype=dtype)
    save_tokens(tmp_path / "tokens.npy", tokens)
    loaded = load_tokens(tmp_path / "tokens.npy")
    assert isinstance(loaded, np.memmap) and loaded.dtype == dtype and np.array_equal(loaded, tokens)
    assert not loaded.flags.writeable
    assert torch.equal(Windows(loaded, 8, 2, seed=3)(5), Windows(tokens, 8, 2, seed=3)(5))


@pytest.mark.parametrize("tokens", [np.arange(3.0), np.arange(3), np.zeros((2, 2), np.uint8), np.array([object()])], ids=["float", "int64", "two axes", "objects"])
def test_what_is_no_array_of_tokens_is_refused_and_nothing_is_written(tmp_path, tokens):
    with pytest.raises(ValueError, match=f"{tokens.dtype} with shape"):
        save_tokens(tmp_path / "tokens.npy", tokens)
    assert not list(tmp_path.iterdir())


def test_a_file_of_pickled_objects_is_not_opened(tmp_path):
    np.save(tmp_path / "tokens.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError):
        load_tokens(tmp_path / "tokens.npy")


def test_nothing_in_the_book_unpickles():
    """No call of pickle, torch.load, joblib or NumPy's loader with pickles, in the package, the tools and the notebooks."""
    sources = {file.name: file.read_text(encoding="utf-8") for folder in ("practitioner", "tools", "book/_ext") for file in (ROOT / folder).glob("*.py")}
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        sources[file.name] = "\n".join(cell.source for cell in nbformat.read(file, 4).cells if cell.cell_type == "code")
    bad = re.compile(r"\bpickle\.load|Unpickler|torch\.load\(|torch\.save\(|joblib|allow_pickle\s*=\s*True|shelve|dill|weights_only\s*=\s*False")
    assert not {name: bad.findall(text) for name, text in sources.items() if bad.search(text)}
    assert bad.search("torch.load(file)") and bad.search("np.load(f, allow_pickle=True)")


# The loop

def by_hand(model, batches, optimizer, steps, schedule=None, clip=None):
    rates, losses = [group["lr"] for group in optimizer.param_groups], []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * (schedule(step) if schedule else 1)
        optimizer.zero_grad()
        loss = next_token_loss(model, batches(step))
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("schedule, clip", [(None, None), (lambda step: 1 / (step + 1), None), (None, 0.1)])
def test_the_loop_is_the_loop_by_hand(schedule, clip):
    model, batches, optimizer = set_up()
    history = train(model, batches, optimizer, 12, schedule=schedule, clip=clip, device="cpu")
    other, batches, optimizer = set_up()
    losses, by_hand_losses = [record["loss"] for record in history], by_hand(other, batches, optimizer, 12, schedule, clip)
    if clip:  # torch rounds the factor otherwise
        assert losses == pytest.approx(by_hand_losses, rel=1e-5)
    else:
        assert losses == by_hand_losses and torch.equal(weights(model), weights(other))
    assert [record["step"] for record in history] == list(range(12))
    assert [record["rate"] for record in history] == pytest.approx([0.01 * (schedule(step) if schedule else 1) for step in range(12)])


def test_two_groups_keep_their_rates():
    model, batches, _ = set_up()
    groups = [dict(params=model.embedding.parameters(), lr=0.5), dict(params=model.output.parameters(), lr=0.25)]
    optimizer = torch.optim.SGD(groups)
    history = train(model, batches, optimizer, 3, schedule=lambda step: 0.5, device="cpu")
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125] and history[-1]["rate"] == 0.25


def test_the_rate_is_the_largest_of_any_group():
    model, batches, _ = set_up()
    optimizer = torch.optim.SGD([dict(params=model.embedding.parameters(), lr=0.25), dict(params=model.output.parameters(), lr=0.5)])
    assert train(model, batches, optimizer, 1, device="cpu")[-1]["rate"] == 0.5


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    model, batches, _ = set_up()
    model.eval()
    batch = batches(0)
    whole, norm = gradient(model, [batch], next_token_loss)
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    parts, norm_of_parts = gradient(model, list(batch.split(1)), next_token_loss)
    assert parts == pytest.approx(whole, rel=1e-5) and norm_of_parts == pytest.approx(norm, rel=1e-4)
    for p, other in zip(model.parameters(), expected):
        torch.testing.assert_close(p.grad, other, atol=1e-6, rtol=1e-4)


def test_accumulation_takes_the_next_batches():
    seen = []
    model, batches, optimizer = set_up()
    train(model, lambda number: seen.append(number) or batches(number), optimizer, 3, accumulate=2, device="cpu")
    assert seen == [0, 1, 2, 3, 4, 5]
    for clip in 0, -1.0, math.nan:
        with pytest.raises(ValueError, match=f"above 0, not {clip}"):
            train(model, batches, optimizer, 3, clip=clip, device="cpu")
    with pytest.raises(ValueError, match="not 0"):
        train(model, batches, optimizer, 3, accumulate=0, device="cpu")


def test_the_norm_is_of_the_gradient_before_it_is_clipped():
    model, batches, _ = set_up()
    loss, norm = gradient(model, [batches(0)], next_token_loss, clip=1e-3)
    clipped = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in model.parameters()))
    assert norm > 0.1 and clipped == pytest.approx(1e-3, rel=1e-3)


def test_evaluation_changes_nothing():
    """Neither the weights nor the random numbers of dropout, however often; frozen parts stay in their mode."""
    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        return dict(validation=float(next_token_loss(model, Windows(TOKENS, 16, 2)(0))), noise=float(torch.rand(())))
    ended = []
    for every in 0, 1, 3:
        model, batches, optimizer = set_up()
        history = train(model, batches, optimizer, 7, evaluate=evaluate, evaluate_every=every, device="cpu")
        ended.append(weights(model))
        assert [record["step"] for record in history if "validation" in record] == {0: [6], 1: list(range(7)), 3: [2, 5, 6]}[every]
    assert torch.equal(ended[0], ended[1]) and torch.equal(ended[0], ended[2])
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[1].eval()
    with pytest.raises(ZeroDivisionError):
        evaluated(model, lambda model: 1 / 0)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


def test_training_is_in_training_mode_and_quiet(capsys):
    model, batches, optimizer = set_up()
    model.eval()
    modes = []
    train(model, batches, optimizer, 2, loss=lambda model, batch: modes.append(model.training) or next_token_loss(model, batch), device="cpu")
    assert modes == [True, True] and capsys.readouterr() == ("", "")
    train(model, batches, optimizer, 2, device="cpu", progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_stops_where_the_loss_is_no_number(bad, tmp_path):
    """... before the step, and the checkpoint before it is good."""
    model, batches, optimizer = set_up()
    run = begun(tmp_path / "run", tempfile.gettempdir())
    kept = []

    def loss(model, batch):
        kept.append(weights(model))
        return next_token_loss(model, batch) * (bad if len(kept) == 4 else 1)
    with pytest.raises(Diverged, match=r"step 3: .*learning rate of 0\.01\b"):
        train(model, batches, optimizer, 9, loss=loss, run=run, save_every=1, device="cpu")
    assert torch.equal(weights(model), kept[3]) and torch.isfinite(weights(model)).all()
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]
    other = NeuralNGram(16, context=3, n_embd=4, n_hidden=8)
    assert resume(run, other) == 3 and torch.equal(weights(other), kept[3])


def test_it_stops_where_only_the_gradient_is_no_number():
    model, batches, optimizer = set_up()
    before = weights(model)

    def loss(model, batch):
        return next_token_loss(model, batch) + (model.output.bias - model.output.bias.detach()).abs().pow(0.5).sum()
    with pytest.raises(Diverged, match="step 0"):
        train(model, batches, optimizer, 2, loss=loss, device="cpu")
    assert torch.equal(weights(model), before)


def test_a_batch_may_be_a_tuple():
    model, batches, optimizer = set_up()

    def loss(model, batch):
        tokens, mask = batch
        return F.cross_entropy(model(tokens[:, :-1])[mask], tokens[:, 1:][mask])
    history = train(model, lambda step: (batches(step), torch.rand(4, 16) < 0.5), optimizer, 3, loss=loss, device="cpu")
    assert len(history) == 3
    assert to_device({"a": torch.zeros(2)}, torch.device("cpu"))["a"].shape == (2,)
    with pytest.raises(TypeError, match="str"):
        to_device("text", torch.device("cpu"))
    assert [part.shape for part in to_device((torch.zeros(2), (torch.zeros(3),)), torch.device("cpu"))[1]] == [(3,)]


def test_device_and_dtype():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    assert choose_dtype(torch.device("cpu")) == torch.float32 and choose_dtype(torch.device("cpu"), torch.bfloat16) == torch.bfloat16
    with pytest.raises(ValueError, match="float16"):
        choose_dtype(torch.device("cpu"), torch.float16)


def test_bfloat16_is_computed_where_it_is_asked_for():
    model, batches, optimizer = set_up()
    formats = []
    model.output.register_forward_hook(lambda module, inputs, output: formats.append(output.dtype))
    train(model, batches, optimizer, 1, dtype=torch.bfloat16, device="cpu")
    train(model, batches, optimizer, 1, device="cpu")
    assert formats == [torch.bfloat16, torch.float32]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@given(st.integers(0, 40), st.integers(0, 12), st.integers(1, 40))
def test_due(step, every, steps):
    last = step == steps - 1
    assert bool(due(step, every, steps)) == (last or (every > 0 and (step + 1) in range(every, 100, every)))


def test_the_curve_is_drawn_while_it_grows(monkeypatch):
    import matplotlib.pyplot as plt
    model, batches, optimizer = set_up()
    seen = []
    clock = iter(range(0, 1000))
    monkeypatch.setattr(experiments.time, "perf_counter", lambda: next(clock) * 0.6)
    history = train(model, batches, optimizer, 8, watch=lambda history: seen.append(len(history)), device="cpu")
    assert 1 < len(seen) < 8 and seen[-1] == 8 and seen == sorted(set(seen)) and [r["seconds"] for r in history] == sorted({r["seconds"] for r in history})
    fig, axes = plt.subplots()
    history[3]["validation"] = 2.0
    draw_curves(history, axes)
    smooth = axes.lines[0].get_ydata()
    bits = [record["loss"] / math.log(2) for record in history]
    assert min(bits) <= smooth.min() and smooth.max() <= max(bits) and smooth[0] == pytest.approx(bits[0])
    assert axes.lines[1].get_xydata().tolist() == [[3, 2.0]]
    updates = []
    monkeypatch.setattr("IPython.display.display", lambda fig, display_id: type("Handle", (), {"update": lambda self, fig: updates.append(fig)})())
    curves = Curves()
    curves(history), curves(history)
    assert len(updates) == 1
    plt.close("all")


# Which code it was

def make_project(folder):
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "a.py").write_text("a = 1\n")
    (folder / "b.bin").write_bytes(bytes(range(256)) * 10)
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.txt").write_bytes(b"one\r\ntwo\n")
    git(folder, "add", "--all")
    commit(folder)
    return folder


def commit(folder):
    git(folder, "-c", "user.name=N", "-c", "user.email=n@example.org", "commit", "--quiet", "--allow-empty", "--message=m")


def tree(folder):
    """Each file's content and kind: a link's target, whether it can be executed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if ".git" in path.relative_to(folder).parts or "ignored" in path.parts:
            continue
        if path.is_symlink():
            found[str(path.relative_to(folder))] = ("link", os.readlink(path))
        elif path.is_file():
            found[str(path.relative_to(folder))] = (bool(path.stat().st_mode & stat.S_IXUSR), path.read_bytes())
    return found


def everything_in(folder):
    """Git's own files, with what they hold."""
    return {str(path): path.read_bytes() for path in sorted((folder / ".git").rglob("*")) if path.is_file()}


names = st.sampled_from(["a.py", "b.bin", "sub/c.txt", "new.txt", "sub/deep/d", "name with space", "ünï.txt", "-dash", "quote\"s", ":(top)magic", "tab\tname"])
contents = st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"a = 1\n", b"no end", b"\r\n\r\n", b"\xff\x00" * 40, b"--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-a\n+b\n"]))
edits = st.lists(st.one_of(
    st.tuples(st.just("write"), names, contents), st.tuples(st.just("delete"), names, st.none()), st.tuples(st.just("stage"), names, st.none()),
    st.tuples(st.just("executable"), names, st.none()), st.tuples(st.just("link"), names, st.sampled_from(["a.py", "nowhere"]))), max_size=8)


def edit(folder, kind, name, what):
    path = folder / name
    if kind == "write" and not path.is_symlink():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(what)
    elif kind == "delete" and os.path.lexists(path):
        path.unlink()
    elif kind == "stage" and os.path.lexists(path):
        git(folder, "add", "--", f"./{name}") if not name.startswith(":") else None
    elif kind == "executable" and path.is_file() and not path.is_symlink():
        path.chmod(0o755)
    elif kind == "link" and not os.path.lexists(path) and path.parent.is_dir():
        path.symlink_to(what)


@posix
@settings(max_examples=25)
@given(edits=edits)
def test_the_patch_restores_the_very_files_and_touches_nothing(edits):
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        project = make_project(place / "project")
        for each in edits:
            edit(project, *each)
        (project / "ignored").mkdir()
        (project / "ignored" / "big").write_text("not code")
        before, inner = tree(project), everything_in(project)
        state, patch = code_state(project / "sub" if (project / "sub").is_dir() else project)
        assert tree(project) == before and everything_in(project) == inner
        assert state["left_out"] == [] and state["commit"] and os.path.samefile(state["repository"], project)
        restore_code(project, place / "again", state["commit"], patch)
        assert tree(place / "again") == before
        assert bool(patch) == bool(git(project, "status", "--porcelain"))


@posix
@pytest.mark.parametrize("key, value", [("diff.noprefix", "true"), ("diff.mnemonicPrefix", "true"), ("color.ui", "always"), ("diff.external", "false"), ("core.autocrlf", "true"),
                                        ("diff.renames", "copies"), ("apply.whitespace", "error"), ("diff.context", "0"), ("core.quotePath", "false"), ("diff.algorithm", "patience"),
                                        ("diff.submodule", "log"), ("core.fileMode", "true"), ("diff.srcPrefix", "x/"), ("diff.wordRegex", "."), ("core.pager", "false")])
def test_it_is_restored_whatever_git_is_set_to(tmp_path, monkeypatch, key, value):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    project = make_project(tmp_path / "project")
    for setting in (project,):
        git(setting, "config", key, value)
    (project / "sub" / "c.txt").write_bytes(b"one \r\ntwo\t \n\n\nthree\r")
    (project / "b.bin").rename(project / "moved.bin")
    (project / "a.py").write_text("a = 1\n" * 30)
    state, patch = code_state(project)
    restore_code(project, tmp_path / "again", state["commit"], patch)
    assert tree(tmp_path / "again") == tree(project)


def test_hidden_changes_are_seen_too(tmp_path):
    """A file that git was told to take as unchanged, and one that was staged and then changed again."""
    project = make_project(tmp_path / "project")
    git(project, "update-index", "--assume-unchanged", "a.py")
    (project / "a.py").write_text("a = 2\n")
    (project / "new").write_text("one\n")
    git(project, "add", "new")
    (project / "new").write_text("two\n")
    state, patch = code_state(project)
    restore_code(project, tmp_path / "again", state["commit"], patch)
    assert tree(tmp_path / "again") == tree(project) and b"a = 2" in patch and b"one" not in patch


def test_before_the_first_commit(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    git(project, "init", "--quiet")
    (project / "a.py").write_text("a = 1\n")
    state, patch = code_state(project)
    assert state["commit"] is None and state["repository"]
    restore_code(project, tmp_path / "again", state["commit"], patch)
    assert tree(tmp_path / "again") == tree(project)


def test_outside_of_a_repository_and_without_git(tmp_path, monkeypatch):
    state, patch = code_state(tmp_path)
    assert state["commit"] is None and state["repository"] is None and patch == b"" and "git rev-parse" in state["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    state, patch = code_state(ROOT)
    assert state["commit"] is None and "git" in state["reason"] and patch == b""
    with pytest.warns(UserWarning, match="no commit is recorded.*git"):
        assert begin(tmp_path / "run", seed=1, repository=tmp_path).record["sessions"][0]["commit"] is None


def test_large_files_and_repositories_inside_are_named_and_left_out(tmp_path):
    project = make_project(tmp_path / "project")
    (project / "big.dat").write_bytes(bytes(5_000_001))
    (project / "small.dat").write_bytes(bytes(5_000_000))
    make_project(project / "inner")
    state, patch = code_state(project)
    assert sorted(state["left_out"]) == ["big.dat", "inner/"] and b"big.dat" not in patch and b"small.dat" in patch
    with pytest.warns(UserWarning, match="not in the patch: big.dat, inner/"):
        begin(tmp_path / "run", seed=0, repository=project)


def test_what_python_and_jupyter_leave_beside_the_code_is_no_code(tmp_path):
    project = make_project(tmp_path / "project")
    for name in "__pycache__/a.cpython-311.pyc", "sub/__pycache__/b.pyc", ".ipynb_checkpoints/n.ipynb", "sub/real.py":
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("x = 1\n")
    patch = code_state(project)[1]
    assert b"real.py" in patch and b"__pycache__" not in patch and b"ipynb_checkpoints" not in patch


@posix
def test_a_folder_with_a_colon_and_quotes_in_its_name(tmp_path):
    project = make_project(tmp_path / 'a:b "c" ü')
    (project / "new").write_text("new\n")
    git(project, "config", "core.splitIndex", "true")
    inner = everything_in(project)
    state, patch = code_state(project)
    assert everything_in(project) == inner
    restore_code(project, tmp_path / "again", state["commit"], patch)
    assert tree(tmp_path / "again") == tree(project)


def test_a_git_hook_does_not_lead_it_astray(tmp_path, monkeypatch):
    """In a hook, git's variables name another repository."""
    project, other = make_project(tmp_path / "project"), make_project(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert os.path.samefile(code_state(project)[0]["repository"], project)


def test_what_cannot_be_restored_says_so(tmp_path):
    project = make_project(tmp_path / "project")
    with pytest.raises(RuntimeError, match="git checkout"):
        restore_code(project, tmp_path / "one", "0" * 40)
    with pytest.raises(RuntimeError, match="git apply"):
        restore_code(project, tmp_path / "two", code_state(project)[0]["commit"], b"nonsense")


# The record

def test_a_run_says_what_it_was(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project")
    (project / "a.py").write_text("a = 2\n")
    monkeypatch.chdir(project / "sub")
    run = begin(project / "runs" / "one", seed=np.int64(7), settings=dict(rate=0.1, shape=(1, 2)), data=dict(train=TOKENS))
    record = json.loads((project / "runs" / "one" / "run.json").read_text())
    assert record == run.record and record["seed"] == 7 and record["settings"] == dict(rate=0.1, shape=[1, 2])
    assert record["data"] == dict(train=digest_of(TOKENS))
    [session] = record["sessions"]
    assert session["commit"] == git(project, "rev-parse", "HEAD").decode().strip() and session["folder"] == "sub"
    assert session["command"] == sys.orig_argv[1:] and session["threads"] == 1 and session["versions"]["torch"] == torch.__version__
    assert b"+a = 2" in (run.folder / "code-1.patch").read_bytes()
    assert b"runs" not in code_state(project)[1], "a run is no part of its own code"


@pytest.mark.parametrize("changed, named", [(dict(seed=8), "seed = 7, not 8"), (dict(settings=dict(rate=0.2)), "settings.rate = 0.1, not 0.2"),
                                            (dict(settings=dict()), "settings.rate = 0.1, not None"), (dict(data=dict(train=TOKENS[:-1])), "data.train = "),
                                            (dict(settings=dict(rate=0.1, more=1)), "settings.more = None, not 1")])
def test_another_run_wants_another_folder(tmp_path, changed, named):
    what = dict(seed=7, settings=dict(rate=0.1), data=dict(train=TOKENS))
    begin(tmp_path / "run", **what)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ValueError, match=re.escape(named)):
        begin(tmp_path / "run", **what | changed)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert len(begin(tmp_path / "run", **what).record["sessions"]) == 2


def test_code_that_changed_between_sessions_is_recorded_and_told(tmp_path):
    project = make_project(tmp_path / "project")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin(tmp_path / "run", seed=0, repository=project)
        begin(tmp_path / "run", seed=0, repository=project)
    (project / "a.py").write_text("a = 3\n")
    with pytest.warns(UserWarning, match="the code has changed since session 2"):
        run = begin(tmp_path / "run", seed=0, repository=project)
    assert not (run.folder / "code-2.patch").exists() and b"+a = 3" in (run.folder / "code-3.patch").read_bytes()


def test_files_that_are_not_of_a_run_are_never_touched(tmp_path):
    """Not even a .gitignore, which a run's folder has, too."""
    (tmp_path / "project").mkdir()
    for name in ".gitignore", "train.py":
        (tmp_path / "project" / name).write_text("mine\n")
    with pytest.raises(ValueError, match="files that are not of a run"):
        begin(tmp_path / "project", seed=0)
    assert {path.name: path.read_text() for path in (tmp_path / "project").iterdir()} == {".gitignore": "mine\n", "train.py": "mine\n"}


def test_settings_that_json_cannot_hold_are_refused(tmp_path):
    for settings in dict(rate=math.nan), dict(kind=object()):
        with pytest.raises((ValueError, TypeError)):
            begin(tmp_path / "run", seed=0, settings=settings)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_opened_to_be_read_is_not_written(tmp_path):
    folder = whole_run(tmp_path / "run", 2).folder
    before = (folder / "run.json").read_bytes()
    with pytest.raises(ValueError, match="take it up with begin"):
        model, batches, optimizer = set_up()
        train(model, batches, optimizer, 4, run=Run(folder), device="cpu")
    assert (folder / "run.json").read_bytes() == before


def test_the_record_says_how_it_was_trained(tmp_path):
    run = whole_run(tmp_path / "run", 2)
    last = json.loads((run.folder / "run.json").read_text())["sessions"][-1]
    assert {key: last[key] for key in ("device", "dtype", "accumulate", "clip", "optimizer")} == dict(
        device="cpu", dtype="torch.float32", accumulate=1, clip=None, optimizer="AdamW")


def test_metrics_are_of_a_step_and_json(tmp_path):
    run = begun(tmp_path / "run")
    with pytest.raises(ValueError, match="none in {'test': 1.0}"):
        run.log(dict(test=1.0))
    run.log(dict(step=0, validation=math.nan, loss=math.inf))
    assert json.loads((run.folder / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == dict(step=0, validation=None, loss=None)


def test_evaluation_may_not_overwrite_what_the_loop_records():
    model, batches, optimizer = set_up()
    with pytest.raises(ValueError, match=r"\['loss', 'step'\]"):
        train(model, batches, optimizer, 1, evaluate=lambda model: dict(loss=1, step=2, mine=3), device="cpu")


def test_an_interrupted_cell_that_is_run_again_begins_where_it_began(tmp_path):
    model, batches, optimizer = set_up()
    whole = train(model, batches, optimizer, 5, device="cpu")
    model, batches, optimizer = set_up()
    run = begun(tmp_path / "run", tempfile.gettempdir())

    def interrupted(step):
        if step == 3:
            raise KeyboardInterrupt
        return batches(step)
    with pytest.raises(KeyboardInterrupt):
        train(model, interrupted, optimizer, 5, run=run, device="cpu")
    history = train(model, batches, optimizer, 5, run=run, device="cpu")
    assert [record["loss"] for record in history] == [record["loss"] for record in whole] == [record["loss"] for record in run.metrics()]


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        Run(tmp_path)


def test_digests(tmp_path):
    array = np.arange(6, dtype=np.uint8)
    others = [array[::-1], array.astype(np.uint16), array.reshape(2, 3), array[:-1], "\x00\x01\x02\x03\x04\x05"]
    assert len({digest_of(each) for each in [array, *others]}) == 6
    assert digest_of(array) == digest_of(np.arange(12, dtype=np.uint8)[:6]) == digest_of(np.repeat(array, 2)[::2])
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_of(tmp_path / "file") == digest_of("abc") == digest_of(b"abc")
    assert digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    with pytest.raises(ValueError, match="object"):
        digest_of(np.array([object()]))


def test_runs_are_found_in_order_and_compared(tmp_path):
    for name, rate in ("b", 0.1), ("a", 0.2):
        begin(tmp_path / name, seed=1, settings=dict(rate=rate, inner=dict(x=1)))
        record = json.loads((tmp_path / name / "run.json").read_text())
        record["sessions"][0]["begun"] = {"b": "2026-01-01", "a": "2026-01-02"}[name]
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    first, second = runs_in(tmp_path)
    assert (first.folder.name, second.folder.name) == ("b", "a")
    assert differences(first.record["settings"], second.record["settings"]) == {"rate": (0.1, 0.2)}
    assert differences(dict(a=dict(b=1)), dict(a=dict(c=1))) == {"a.b": (1, None), "a.c": (None, 1)}
    assert runs_in(tmp_path / "nothing") == []


TRAIN = """import torch
tokens = torch.randint(16, (4, 9))
torch.manual_seed(5)
model = torch.nn.Embedding(16, 16)
x.train(model, lambda step: tokens, torch.optim.SGD(model.parameters(), 0.1), 2, run=run, device="cpu", progress=False);"""
NOTEBOOK = ["import practitioner.experiments as x\nfirst = 1", "second = first + 1\n%time third = 3", "run = x.begin(FOLDER, seed=1)\nprint(run.record['sessions'][0]['command'])", TRAIN]


def test_a_notebook_that_was_never_saved_is_recorded(tmp_path):
    """Its cells, in the order in which they were run, which is not the order on the page; what was changed since it was saved counts."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.replace("FOLDER", repr(str(tmp_path / "run")))) for source in NOTEBOOK])
    client = NotebookClient(notebook, resources={"metadata": {"path": str(ROOT / "notebooks")}}, kernel_name="python3")
    with client.setup_kernel():
        for number in 1, 0, 1, 2, 3:
            try:
                client.execute_cell(notebook.cells[number], number)
            except Exception:
                assert number == 1  # before the first cell, `first` is not known: that was run, too
            if number == 0:
                notebook.cells[1].source = "second = first + 2"
    cells = (tmp_path / "run" / "cells-1.py").read_text()
    ast.parse(cells)
    order = [cells.index(part) for part in ("second = first + 1", "first = 1\n", "second = first + 2", "run = x.begin", "torch.manual_seed(5)")]
    assert order == sorted(order) and "get_ipython().run_line_magic('time'" in cells
    session = Run(tmp_path / "run").record["sessions"][0]
    assert session["command"] is None and session["commit"]
    assert cells_run() is None  # here is no notebook


# Checkpoints

def kinds():
    yield torch.optim.SGD, dict(momentum=0.9, nesterov=True)
    yield torch.optim.SGD, dict()
    yield torch.optim.Adam, dict(amsgrad=True)
    yield torch.optim.AdamW, dict(fused=True)
    yield torch.optim.RMSprop, dict(centered=True)
    yield torch.optim.Adagrad, dict()


@pytest.mark.parametrize("kind, options", list(kinds()), ids=lambda value: getattr(value, "__name__", ""))
def test_a_resumed_run_is_the_run_to_the_bit(tmp_path, kind, options):
    """Dropout draws from the random state, the schedule from the step, the optimiser from its memory; loss and evaluation draw from NumPy and Python too."""
    def loss(model, batch):
        return next_token_loss(model, batch) * (1 + 0.1 * random.random() + 0.1 * np.random.rand())
    what = dict(schedule=lambda step: 1 / (1 + step), clip=0.5, loss=loss, accumulate=2, dtype=torch.bfloat16 if options.get("momentum") else None, device="cpu",
                evaluate=lambda model: dict(noise=np.random.rand() + random.random() + float(torch.rand(()))), evaluate_every=2)
    model, batches, optimizer = set_up(kind=kind, **options)
    whole = train(model, batches, optimizer, 9, **what)
    run = begun(tmp_path / "run", tempfile.gettempdir())
    for steps in 4, 5, 9, 9:
        other, batches, optimizer = set_up(kind=kind, **options)
        if steps > 4:  # what was drawn before it is resumed does not matter
            torch.rand(3), random.random(), np.random.rand(2)
        history = train(other, batches, optimizer, steps, run=run, **what)
    assert torch.equal(weights(model), weights(other)) and [r["loss"] for r in history] == [r["loss"] for r in whole]
    assert [r["loss"] for r in run.metrics()] == [r["loss"] for r in whole] and len(run.checkpoints()) == 2
    assert [r["seconds"] for r in history] == sorted(r["seconds"] for r in history)


def test_tied_weights_stay_tied_and_are_saved_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.output = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens):
            return self.output(self.embedding(tokens))
    run = begun(tmp_path / "run", tempfile.gettempdir())
    model, other = Tied(), Tied()
    train(model, Windows(TOKENS, 16, 4), torch.optim.Adam(model.parameters()), 3, run=run, device="cpu")
    tensors, rest = read_checkpoint(run.checkpoints()[-1])
    assert [name for name in tensors if name.startswith("model.")] == ["model.embedding.weight"] and rest["same"] == {"model.output.weight": "model.embedding.weight"}
    assert resume(run, other, torch.optim.Adam(other.parameters())) == 3
    assert torch.equal(weights(model), weights(other)) and other.output.weight is other.embedding.weight


def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_half_loaded(tmp_path):
    run = begun(tmp_path / "run", tempfile.gettempdir())
    model, batches, optimizer = set_up()
    train(model, batches, optimizer, 2, run=run, device="cpu")
    for options, named in (dict(n_hidden=9), r"hidden.bias: \(8,\) in the checkpoint, \(9,\) in the model"), (dict(n_embd=5), r"embedding.weight: \(17, 4\)"):
        other = NeuralNGram(16, **dict(context=3, n_embd=4, n_hidden=8) | options)
        before = weights(other)
        with pytest.raises(ValueError, match=named):
            resume(run, other)
        assert torch.equal(weights(other), before)
    other = nn.Sequential(NeuralNGram(16, context=3, n_embd=4, n_hidden=8))
    with pytest.raises(ValueError, match="0.embedding.weight: nothing in the checkpoint"):
        resume(run, other)
    other, _, _ = set_up()
    before, random_before = weights(other), torch.get_rng_state()
    some, every = list(other.parameters())[:2], list(other.parameters())
    for optimizer, named in ((torch.optim.AdamW(some, lr=0.01), "parameters are"), (torch.optim.Adam(every, lr=0.01), "kind are AdamW, not Adam"),
                             (torch.optim.AdamW(every, lr=0.02), "'initial_lr': 0.01.*'initial_lr': 0.02"), (torch.optim.AdamW(every[::-1], lr=0.01), "parameters are"),
                             (torch.optim.AdamW(every, lr=0.01, betas=(0.9, 0.99)), r"\[0.9, 0.999\].*\[0.9, 0.99\]")):
        with pytest.raises(ValueError, match=f"another optimiser: its .*{named}"):
            resume(run, other, optimizer)
        assert torch.equal(weights(other), before) and torch.equal(torch.get_rng_state(), random_before)
    assert resume(run, other, torch.optim.AdamW(every, lr=0.01, foreach=False)) == 2


def test_to_read_a_run_changes_nothing(tmp_path):
    run = begun(tmp_path / "run", tempfile.gettempdir())
    model, batches, optimizer = set_up()
    train(model, batches, optimizer, 4, run=run, save_every=2, device="cpu")
    run.log(dict(step=4, loss=1.0))
    (run.folder / "x.part").write_text("half")
    other = NeuralNGram(16, context=3, n_embd=4, n_hidden=8)
    before, state = {path.name: path.read_bytes() for path in run.folder.iterdir()}, torch.get_rng_state()
    assert resume(Run(run.folder), other) == 4 and torch.equal(weights(model), weights(other))
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before and torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def trained(tmp_path):
    run = begun(tmp_path / "run", tempfile.gettempdir())
    model, batches, optimizer = set_up()
    train(model, batches, optimizer, 6, run=run, save_every=2, device="cpu")
    return run


def whole_run(folder, steps=6):
    model, batches, optimizer = set_up()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = begin(folder, seed=0, repository=tempfile.gettempdir())
        train(model, batches, optimizer, steps, run=run, save_every=2, device="cpu")
    return run


def ending(run):
    """What must be equal to the bit: the last checkpoint's bytes, and the metrics but for the time."""
    return run.checkpoints()[-1].name, run.checkpoints()[-1].read_bytes(), [{key: value for key, value in record.items() if key != "seconds"} for record in run.metrics()]


def damages(content):
    header = int.from_bytes(content[:8], "little")
    yield from (b"", content[:7], content[:8], content[:8 + header // 2], content[:8 + header], content[:-1], content + b"\x00", bytes(len(content)),
                content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], b"\xff" * 8 + content[8:], content[:8] + b"[" + content[9:])


def test_a_damaged_checkpoint_is_told_and_the_last_good_one_is_used(trained):
    good = ending(trained)
    content = trained.checkpoints()[-1].read_bytes()
    for damaged in damages(content):
        shutil.copytree(trained.folder, trained.folder.parent / "copy")
        run = begun(trained.folder.parent / "copy", tempfile.gettempdir())
        run.checkpoints()[-1].write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"checkpoint-00000006.safetensors is .*damaged.*Step 4 is the last good one"):
            model, batches, optimizer = set_up()
            train(model, batches, optimizer, 6, run=run, save_every=2, device="cpu")
        assert ending(run) == good and (run.folder / "checkpoint-00000006.damaged").read_bytes() == damaged
        shutil.rmtree(run.folder)


@settings(max_examples=60)
@given(data=st.data())
def test_no_bit_can_flip_unseen(trained, data):
    file = trained.checkpoints()[-1]
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    place = data.draw(st.one_of(st.integers(0, 8 + header - 1), st.integers(0, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = file.with_name("flipped")
    damaged.write_bytes(content)
    tensors, rest = read_checkpoint(file)
    try:
        others, other_rest = read_checkpoint(damaged)
    except ValueError as error:
        assert "flipped" in str(error)
    else:  # a space in the header that became another white space
        assert rest == other_rest and all(torch.equal(tensors[name], others[name]) for name in tensors | others)


def test_where_all_are_damaged_nothing_is_begun_anew(trained):
    for file in trained.checkpoints():
        file.write_bytes(file.read_bytes()[:100])
    (trained.folder / "checkpoint-best.safetensors").write_bytes(b"a copy of somebody's")
    before = {path.name: path.read_bytes() for path in trained.folder.iterdir()}
    model, batches, optimizer = set_up()
    with pytest.raises(ValueError, match="no checkpoint can be read: .*00000006.*00000004"):
        train(model, batches, optimizer, 6, run=trained, device="cpu")
    assert {path.name: path.read_bytes() for path in trained.folder.iterdir()} == before


def test_pickles_and_foreign_files_are_no_checkpoints(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)
    torch.save({"model": Trap()}, tmp_path / "pickle.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    for name in "pickle", "foreign":
        with pytest.raises(ValueError, match=f"{name}.safetensors is "):
            read_checkpoint(tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "sprung").exists()


def test_a_torn_line_of_metrics_does_not_count(trained):
    with open(trained.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    assert [record["step"] for record in trained.metrics()] == list(range(6))
    assert ending(whole_run(trained.folder, 8)) == ending(whole_run(trained.folder.parent / "other", 8))


# Runs that die

def in_child(function):
    """Run `function` in a forked child: its exit status (negative: a signal)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Faults:
    """Count every write, fsync, rename and removal of a file, and fail at the one whose number is `at`: `how` is "die" or an OSError's number.

    A write that dies, or fails, leaves half of its bytes."""
    def __init__(self, at, how):
        self.at, self.how, self.count, self.kinds = at, how, 0, []

    def reached(self, kind):
        self.count += 1
        self.kinds.append(kind)
        return self.count == self.at

    def fail(self):
        if self.how == "die":
            os._exit(9)
        raise OSError(self.how, os.strerror(self.how))

    def __enter__(self):
        self.originals = {name: getattr(os, name) for name in ("fsync", "replace", "unlink", "fdopen")} | {"open": builtins.open}
        for name in "fsync", "replace", "unlink":
            def wrapped(*arguments, _name=name, **options):
                if self.reached(_name):
                    self.fail()
                return self.originals[_name](*arguments, **options)
            setattr(os, name, wrapped)
        os.fdopen = lambda *arguments, **options: self.writing(self.originals["fdopen"](*arguments, **options))
        builtins.open = lambda *arguments, **options: self.writing(self.originals["open"](*arguments, **options))
        return self

    def __exit__(self, *_):
        for name in "fsync", "replace", "unlink", "fdopen":
            setattr(os, name, self.originals[name])
        builtins.open = self.originals["open"]

    def writing(self, file):
        if not file.writable():
            return file
        write = file.write

        def half(content):
            if self.reached("write"):
                write(content[:len(content) // 2])
                file.flush()
                self.fail()
            return write(content)

        class Wrapped:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return half if name == "write" else getattr(file, name)
        return Wrapped()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    torch.set_num_threads(1)
    os.environ["PRACTITIONER_MODE"] = "test"
    return ending(whole_run(tmp_path_factory.mktemp("reference") / "run"))


def counted(tmp_path):
    with Faults(0, "die") as faults:
        whole_run(tmp_path / "counted")
    return faults.kinds


def test_every_kind_of_write_is_met(tmp_path):
    kinds = counted(tmp_path)
    assert {kind: kinds.count(kind) > 2 for kind in ("write", "fsync", "replace")} == dict(write=True, fsync=True, replace=True) and "unlink" in kinds
    assert len(kinds) > 30


@posix
def test_a_run_that_dies_at_any_write_fsync_or_rename_ends_as_if_it_had_not(tmp_path, reference):
    for at in range(1, len(counted(tmp_path)) + 1):
        folder = tmp_path / f"{at}"

        def dying():
            with Faults(at, "die"):
                whole_run(folder)
        assert in_child(dying) == 9, at
        assert in_child(lambda: whole_run(folder)) == 0, at
        assert ending(Run(folder)) == reference, at
        assert not list(folder.glob("*.part")), at


@posix
def test_a_run_whose_disk_fails_at_any_write_fsync_or_rename_says_so_and_ends_as_if_it_had_not(tmp_path, reference):
    """The disk is full, once; the error is an OSError; the folder then still holds what was good before."""
    for at, kind in enumerate(counted(tmp_path), 1):
        folder = tmp_path / f"{at}"
        with Faults(at, 28) as faults:
            try:
                whole_run(folder)
            except OSError as error:
                assert error.errno == 28
                good = Run(folder).checkpoints() if (folder / "run.json").exists() else []
                if "checkpoint" in str(error):
                    assert (good[-1].name if good else "there is none yet") in str(error)
                for file in good:
                    read_checkpoint(file)
            else:
                assert kind in ("fsync", "unlink"), (at, kind)  # of the folder, which not every file system can
        assert faults.count >= at
        assert ending(whole_run(folder)) == reference, at


@posix
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not(tmp_path):
    """SIGKILL, KILLS of them (5; `make kills`: 50), each to a run that is resumed afterwards until it is killed again."""
    kills, rng = int(os.environ.get("KILLS", "5")), random.Random(int(os.environ.get("KILL_SEED", "0")))
    whole = ending(whole_run(tmp_path / "whole", 60))
    started = time.perf_counter()
    assert in_child(lambda: whole_run(tmp_path / "timed", 60)) == 0
    takes = time.perf_counter() - started
    folder, ended, killed = tmp_path / "killed-0", 0, 0
    while killed < kills:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                whole_run(folder, 60)
            finally:
                os._exit(0)
        time.sleep(rng.random() * takes)
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if (folder / "run.json").exists() and Run(folder).checkpoints()[-1:] and Run(folder).checkpoints()[-1].stem.endswith("60"):
            assert ending(Run(folder)) == whole
            ended += 1
            folder = tmp_path / f"killed-{ended}"
    assert in_child(lambda: whole_run(folder, 60)) == 0
    assert ending(Run(folder)) == whole and not list(folder.glob("*.part"))


@posix
def test_a_file_that_may_not_grow(tmp_path):
    """The kernel itself refuses to write on, in the middle of a checkpoint: the message names the last good one, and nothing is left beside it."""
    run = whole_run(tmp_path / "run", 4)

    def limited():
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(OSError, match="step 6 was not written; the last good one is checkpoint-00000004.safetensors"):
            whole_run(run.folder)
        assert not list(run.folder.glob("*.part"))
    assert in_child(limited) == 0
    assert [file.name for file in run.checkpoints()] == ["checkpoint-00000002.safetensors", "checkpoint-00000004.safetensors"]
    assert ending(whole_run(run.folder)) == ending(whole_run(tmp_path / "other"))


FULL = """
import sys
sys.path[:0] = {path!r}
import pytest, test_experiments as t
run = t.whole_run({folder!r} + "/run", 4)
free = t.shutil.disk_usage({folder!r}).free
open({folder!r} + "/rest", "wb").write(bytes(free - 20_480))
with pytest.raises(OSError, match="No space left.*last good one is checkpoint-00000004") as caught:
    t.whole_run(run.folder, 40)
t.os.unlink({folder!r} + "/rest")
print(t.ending(t.whole_run(run.folder)) == t.ending(t.whole_run({folder!r} + "/other")))
"""


@posix
def test_a_disk_that_is_full(tmp_path):
    """A disk of one megabyte, where this machine lets us mount one."""
    (tmp_path / "disk").mkdir()
    script = FULL.format(path=[str(ROOT), str(ROOT / "tests")], folder=str(tmp_path / "disk"))
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}/disk && exec {sys.executable} -c \"$SCRIPT\""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(["unshare", "-rm", "bash", "-c", mount], capture_output=True, text=True, env=os.environ | {"SCRIPT": script})
    if "mount:" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.stdout.split()[-1:] == ["True"], done.stderr[-2000:]


@posix
def test_a_folder_that_is_read_only(tmp_path):
    """A clear error, and the files as they were. Root may write anywhere, so the child is nobody."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    run = whole_run(tmp_path / "run", 4)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    run.folder.chmod(0o555)

    def nobody():
        if os.getuid() == 0:
            os.setuid(65534)
        with pytest.raises(PermissionError, match="ermission denied.*run"):
            model, batches, optimizer = set_up()
            train(model, batches, optimizer, 6, run=run, device="cpu")
        with pytest.raises(PermissionError, match="after step 6 was not written; the last good one is checkpoint-00000004"):
            save(run, 6, *set_up()[::2])
        assert resume(run, set_up()[0]) == 4
    assert in_child(nobody) == 0
    run.folder.chmod(0o755)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


# Comparing

@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=20), st.floats(0.5, 0.99))
def test_the_paired_interval_is_scipys(pairs, confidence):
    one, other = np.array(pairs).T
    mean, low, high = paired_interval(one, other, confidence)
    if np.std(one - other) > 1e-9:
        expected = stats.ttest_rel(one, other).confidence_interval(confidence)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert mean == pytest.approx((low + high) / 2, abs=1e-9)


@pytest.mark.parametrize("one, other", [([1], [2]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]])])
def test_what_is_no_pairs_is_refused(one, other):
    with pytest.raises(ValueError, match="two results or more"):
        paired_interval(one, other)
