"""Every row of the bug matrix, each in two of four models; no false alarm; and the pieces of a healthy setup held against their definitions."""
import itertools
import json
import math
import pathlib
import random
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from practitioner.corpus import load_corpus
from practitioner.diagnostics import (all_but_padding, BUGS, cost_in_use, diagnose, draw_matrix, examine, Finding, future_seen, KnownTable, loss_without,
                                      mean_cost, mixed_rows, one_update, other_rows_seen, other_tokens, practice_setup, Question, QUESTIONS,
                                      row_order_gap, Setup, shared_passages, shuffled_rows, text_rows, without_dropout, wrapping)
from practitioner.network import Bigram, NeuralNGram, next_token_loss

matplotlib.use("agg")
torch.set_num_threads(1)
quick = settings(max_examples=40, deadline=None, derandomize=True)
RESULTS = json.loads((pathlib.Path(__file__).parent.parent / "data" / "results.json").read_text(encoding="utf-8"))
V = 128


class GRU(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(V, width), nn.GRU(width, width, batch_first=True)
        self.dropout, self.output = nn.Dropout(0.1), nn.Linear(width, V)

    def forward(self, tokens):
        return self.output(self.dropout(self.recurrent(self.embedding(tokens))[0]))


class Convolution(nn.Module):
    """Two causal convolutions: padded on the left only."""

    def __init__(self, width=32):
        super().__init__()
        self.embedding, self.layers = nn.Embedding(V, width), nn.ModuleList(nn.Conv1d(width, width, 5) for _ in range(2))
        self.dropout, self.output = nn.Dropout(0.1), nn.Linear(width, V)

    def forward(self, tokens):
        x = self.embedding(tokens).transpose(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(F.pad(x, (4, 0))))
        return self.output(self.dropout(x.transpose(1, 2)))


class GPT(nn.Module):
    """Two layers of attention: tied weights, a table of places that is exactly as long as a row, a residual stream."""

    def __init__(self, width=32, length=40, causal=True):
        super().__init__()
        self.embedding, self.places, self.causal = nn.Embedding(V, width), nn.Embedding(length, width), causal
        self.layers = nn.ModuleList(nn.ModuleDict({"mixed": nn.Linear(width, 3 * width), "out": nn.Linear(width, width), "first": nn.LayerNorm(width),
                                                   "second": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)})
                                    for _ in range(2))
        self.dropout, self.last, self.output = nn.Dropout(0.1), nn.LayerNorm(width), nn.Linear(width, V, bias=False)
        self.output.weight = self.embedding.weight
        for table in self.embedding, self.places:
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens):
        B, T = tokens.shape
        x = self.embedding(tokens) + self.places.weight[torch.arange(T)]
        for layer in self.layers:
            q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in layer["mixed"](layer["first"](x)).chunk(3, dim=2))
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            x = x + self.dropout(layer["out"](seen.transpose(1, 2).flatten(2)))
            x = x + self.dropout(layer["down"](F.gelu(layer["up"](layer["second"](x)))))
        return self.output(self.last(x))


class FromZero(GPT):
    """With an output layer of its own that begins at zero."""

    def __init__(self, **options):
        super().__init__(**options)
        self.output = nn.Linear(self.embedding.embedding_dim, V)
        nn.init.zeros_(self.output.weight), nn.init.zeros_(self.output.bias)


MODELS = {"n-gram": lambda: NeuralNGram(V, context=8, n_embd=16, n_hidden=64, dropout=0.1), "GRU": GRU, "convolution": Convolution, "GPT": GPT}


def seeded(make, add=0):
    def build(seed):
        torch.manual_seed(seed + add)
        return make()
    return build


@pytest.fixture(scope="module")
def rows():
    """Rows of real turns, most of them padded: 256 to train on, 64 to validate."""
    corpus = load_corpus()
    turns = {split: [turn for conversation in getattr(corpus, split) for turn in conversation.turns if 6 <= len(turn) <= 40]
             for split in ("train", "validation")}
    return tuple(text_rows(turns[split][::11][:size], 28) for split, size in (("train", 256), ("validation", 64)))


@pytest.fixture(scope="module")
def setups(rows):
    return {name: Setup(seeded(make), *rows, V, pad=0, loss=loss_without(0)) for name, make in MODELS.items()}


def alarms(setup, questions=QUESTIONS):
    return {name for name, finding in examine(setup, questions).items() if finding.alarm}


# The matrix: which question catches which bug

MATRIX = {
    "targets not shifted": {"known answer", "adds to one", "padding", "noise", "micro-batches", "rebatched", "in use"},
    "sees the future": {"adds to one", "padding", "no future", "noise", "in use"},
    "softmax twice": {"one batch"},
    "reshape mixes rows": {"padding", "other rows", "row order", "micro-batches", "rebatched", "in use"},
    "loss over padding": {"first loss", "known answer", "adds to one", "padding", "noise", "micro-batches", "rebatched", "in use"},
    "dropout in evaluation": {"twice", "rebatched", "in use"},
    "gradients not zeroed": {"fresh gradients"},
    "step per micro-batch": {"micro-batches"},
    "mean of means": {"micro-batches"},
    "validation in training": {"shared text"},
    "seed set too late": {"same seed", "other seed", "micro-batches"},  # the last because each build gives another model
    "order repeats on resume": {"resume"},
}
# Steps whose gradients pile up overshoot. Adam damps that, and the n-gram's single hidden layer learns a small batch all the same; the others do not.
ALSO = {(model, "gradients not zeroed"): {"one batch"} for model in MODELS if model != "n-gram"}


def test_the_matrix_has_a_row_for_each_bug_and_something_in_each_column():
    assert list(MATRIX) == list(BUGS)
    assert set().union(*MATRIX.values()) == set(QUESTIONS)


@pytest.mark.parametrize("model, bug", [(model, bug) for i, bug in enumerate(BUGS) for j, model in enumerate(MODELS) if model == "n-gram" or (i + j) % 3 == 0])
def test_each_row_of_the_matrix_in_two_models(setups, model, bug):
    """In the n-gram, and in one of the others, in turn: all four take minutes."""
    assert alarms(BUGS[bug](setups[model])) == MATRIX[bug] | ALSO.get((model, bug), set())


@pytest.mark.parametrize("bug", BUGS)
def test_the_notebook_publishes_the_same_row(bug):
    entry = RESULTS["bug_" + bug.replace(" ", "_").replace("-", "_")]
    assert entry["about"] == {"bug": bug, "caught by": ", ".join(name for name in QUESTIONS if name in MATRIX[bug])}
    assert entry["value"] == len(MATRIX[bug]) and entry["unit"] == "questions"


@pytest.mark.parametrize("model, seed", [("n-gram", 0), ("n-gram", 10), ("n-gram", 20), ("GRU", 0), ("convolution", 10), ("GPT", 20)])
def test_no_false_alarm(setups, model, seed):
    """Nor one that is near: what is measured stays below half its bound."""
    findings = examine(replace(setups[model], build=seeded(MODELS[model], seed)))
    assert not [name for name, finding in findings.items() if finding.alarm]
    assert all(finding.measured <= finding.question.bound / 2 for finding in findings.values())


@pytest.mark.parametrize("other", [FromZero, lambda: GPT(width=48).float()])
def test_no_false_alarm_of_other_transformers(setups, other):
    assert not alarms(replace(setups["n-gram"], build=seeded(other)))


def test_no_false_alarm_where_the_loss_mask_looks_at_tokens(setups):
    """What follows a letter e counts, and nothing else: many batches have next to nothing of it, and noise has it elsewhere."""
    def counted(setup, batch):
        return all_but_padding(setup, batch) & (batch[:, :-1] == ord("e"))

    def loss(model, batch):
        targets = torch.where(counted(setups["n-gram"], batch), batch[:, 1:], 0)
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=0)
    setup = replace(setups["n-gram"], counted=counted, loss=loss)
    findings = examine(setup)
    assert not [name for name, finding in findings.items() if finding.alarm]
    assert {name for name, finding in findings.items() if finding.measured is None} == {"adds to one", "noise"}
    nothing = examine(replace(setup, counted=lambda setup, batch: torch.zeros_like(batch[:, 1:], dtype=torch.bool)))
    assert not [name for name, finding in nothing.items() if finding.alarm]


def test_no_false_alarm_without_padding():
    """The usual program: windows of a text, the loss of the chapter before, and every default. Padding is not asked about."""
    text = np.frombuffer(load_corpus().text("validation").encode()[:40_000], np.uint8).astype(np.int64)
    windows = torch.from_numpy(text[:len(text) // 33 * 33].reshape(-1, 33))
    findings = examine(Setup(seeded(MODELS["n-gram"]), windows[:900], windows[900:964], V))
    assert not [name for name, finding in findings.items() if finding.alarm]
    assert [name for name, finding in findings.items() if finding.measured is None] == ["padding"]


# Bugs that are no row of the matrix

def with_loss(function):
    """A bug in the loss, of the logits (B, T, V) and the batch."""
    return lambda setup: replace(setup, loss=lambda model, batch: function(model(batch[:, :-1]), batch))


class BatchNormalised(nn.Module):
    """Normalised over the batch, so that each row sees all others; their order does not matter."""

    def __init__(self, model):
        super().__init__()
        self.model, self.normal = model, nn.BatchNorm1d(V)

    def forward(self, tokens):
        return self.normal(self.model(tokens).transpose(1, 2)).transpose(1, 2)


def batches_averaged(setup):
    def evaluate(setup, model, batches):
        return sum(mean_cost(setup, model, [batch]) for batch in batches) / len(batches)
    return replace(setup, evaluate=evaluate)


def always_the_same(setup):
    return replace(setup, build=lambda seed: setup.build(0), batches=lambda setup, seed, start=0: shuffled_rows(setup, 0, start))


def half_kept_private(setup):
    """A loss mask (every other target counts) that the loss has lost."""
    return replace(setup, counted=lambda setup, batch: all_but_padding(setup, batch) & (torch.arange(batch.shape[1] - 1) % 2 == 0))


def everything_masked(setup):
    return with_loss(lambda logits, batch: F.cross_entropy(logits.flatten(0, 1), torch.full_like(batch[:, 1:], -100).flatten()))(setup)


OTHER = {
    "targets shifted twice": (with_loss(lambda logits, batch: F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 2:].flatten(), ignore_index=0)),
                              {"known answer"}),
    "padding is predicted": (lambda setup: replace(setup, loss=next_token_loss), {"known answer", "padding"}),
    "loss in bits": (with_loss(lambda logits, batch: F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=0) / math.log(2)),
                     {"first loss", "known answer", "adds to one"}),
    "loss mask lost": (half_kept_private, {"known answer"}),
    "all targets masked": (everything_masked, {"known answer", "first loss", "in use"}),
    "output starts too large": (wrapping(lambda model, tokens: 30 * model(tokens)), {"first loss"}),
    "sum over micro-batches": (lambda setup: replace(setup, update=lambda s, model, optimizer, batches: sum(
        [one_update(replace(s, loss=lambda m, b: len(batches) * s.loss(m, b)), model, optimizer, batches)])), {"micro-batches"}),
    "batches averaged": (batches_averaged, {"rebatched"}),
    "always the same seed": (always_the_same, {"other seed"}),
    "mean over time": (wrapping(lambda model, tokens: model(tokens) - model(tokens).mean(1, keepdim=True)), {"no future", "in use"}),
    "nothing is learned": (lambda setup: replace(setup, update=lambda setup, model, optimizer, batches: 0.0), {"one batch"}),
    "wrong shape": (wrapping(lambda model, tokens: model(tokens)[:, :-1]), {"first loss", "one batch"}),
}


@pytest.mark.parametrize("bug", OTHER)
def test_other_bugs_are_caught_as_well(setups, bug):
    change, expected = OTHER[bug]
    assert expected <= alarms(change(setups["n-gram"]))


def test_a_normalisation_over_the_batch_is_seen_by_one_of_the_two_questions(setups):
    setup = setups["n-gram"]
    setup = replace(setup, build=lambda seed: BatchNormalised(setups["n-gram"].build(seed)))
    assert other_rows_seen(setup) > 1e-2 and row_order_gap(setup) < 1e-4


@pytest.mark.parametrize("model", [GPT, FromZero])
def test_a_look_ahead_is_seen_behind_an_output_layer_of_zeros(setups, model):
    setup = replace(setups["n-gram"], build=seeded(lambda: model(causal=False)))
    assert future_seen(setup) > 1e-3 and future_seen(replace(setup, build=seeded(model))) < 1e-6
    assert other_rows_seen(mixed_rows(setup)) > 1e-3 and row_order_gap(mixed_rows(setup)) > 1e-3


def test_a_place_that_is_mixed_within_its_row_is_seen_as_the_future(setups):
    assert future_seen(wrapping(lambda model, tokens: model(tokens.flip(1)))(setups["GRU"])) > 1e-3


def test_the_future_is_looked_for_in_the_text_and_not_behind_it(setups):
    """A model that knows by its padding how long a row is would be taken for one that looks ahead, if tokens were written there."""
    asked = []

    def watch(model, tokens):
        asked.append(tokens)
        return model(tokens)
    batch = next(setups["GRU"].batches(setups["GRU"], 0))
    setup = replace(setups["GRU"], batches=lambda setup, seed, start=0: itertools.repeat(F.pad(batch[:, :21], (0, 10))))
    assert future_seen(wrapping(watch)(setup)) == 0
    assert len(asked) == 4 and all((tokens[:, 21:] == 0).all() and (tokens[:, :20] != 0).sum() >= 20 for tokens in asked)
    changed = [int((tokens != asked[0]).sum()) for tokens in asked[1:]]
    assert changed[0] > changed[1] > changed[2] == 1


@pytest.mark.parametrize("batches", [
    lambda setup, seed, start=0: itertools.islice(shuffled_rows(setup, seed, start), 0 if start else None),
    lambda setup, seed, start=0: shuffled_rows(setup, seed, start - start % (len(setup.train) // setup.batch_size))])
def test_a_resumed_run_without_batches_and_one_that_goes_to_the_beginning_of_its_epoch(setups, batches):
    """The second also where an epoch has more than two hundred batches."""
    many = setups["n-gram"].train.repeat(20, 1)
    assert alarms(replace(setups["n-gram"], train=many, batches=batches), {"resume": QUESTIONS["resume"]})


def test_the_reshape_is_not_taken_for_a_look_ahead(setups):
    assert future_seen(mixed_rows(setups["GRU"])) == 0


def test_a_model_that_sees_each_token_late_is_caught_by_nothing(setups):
    """The notebook's Break. Should this fail, a question has become better than the notebook says."""
    assert not alarms(wrapping(lambda model, tokens: model(F.pad(tokens, (1, -1))))(setups["n-gram"]))
    assert RESULTS["silent_late"]["value"] > RESULTS["silent_bigram"]["value"] > RESULTS["silent_healthy_reported"]["value"]


def test_a_bigram_cannot_learn_a_batch_by_heart(setups):
    """What the report names as a harmless cause: too small a model."""
    found = alarms(replace(setups["n-gram"], build=seeded(lambda: Bigram(V))))
    assert "one batch" in found and not found & {"no future", "other rows", "micro-batches", "in use"}


# The examination

def test_an_examination_changes_neither_the_random_state_nor_the_global_generators(setups):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    examine(practice_setup())
    assert before[:2] == (random.getstate(), np.random.get_state()[1].tolist()) and torch.equal(before[2], torch.get_rng_state())


@pytest.mark.parametrize("measured, error, alarm", [
    (0.5, "", False), (1.0, "", False), (1.1, "", True), (math.nan, "", True), (math.inf, "", True), (None, "", False), (None, "ValueError: no", True)])
def test_what_is_an_alarm(measured, error, alarm):
    assert Finding(Question(None, 1.0, "", ""), measured, error).alarm == alarm


def test_a_question_is_not_asked_about_rows_in_which_nothing_is_to_be_predicted():
    setup, asked = practice_setup(), []

    def measure(setup, *rows):
        asked.append(rows)
        return 1.0
    rows, empty = setup.train[:2], torch.zeros(2, 13, dtype=torch.int64)
    assert Question(measure, 1, "", "", about=lambda setup: [rows, empty]).ask(setup) is None and not asked
    assert Question(measure, 1, "", "", about=lambda setup: [rows, rows]).ask(setup) == 1 and len(asked.pop()) == 2
    assert Question(measure, 1, "", "").ask(setup) == 1 and asked == [()]


def test_a_question_that_raises_is_a_finding_and_the_others_are_still_asked():
    def broken(setup):
        raise RuntimeError("the shapes do not fit")
    questions = {"one": Question(broken, 1, "of", "causes"), "two": Question(lambda setup: 2.0, 1, "sheep", "a gap in the fence")}
    findings = examine(practice_setup(), questions)
    assert findings["one"].error == "RuntimeError: the shapes do not fit" and findings["two"].measured == 2


def test_the_report_names_what_was_measured_its_bound_and_the_causes(capsys):
    questions = {"sheep": Question(lambda setup: 2.125, 0.5, "sheep outside", "a gap in the fence"), "well": Question(lambda setup: 0.0, 0, "", "")}
    findings = diagnose(practice_setup(), questions)
    said = capsys.readouterr().out
    assert said == "2 questions, 1 alarms\n- sheep: 2.1 sheep outside (at most 0.5). Usual causes: a gap in the fence.\n"
    assert list(findings) == ["sheep", "well"]


def test_the_report_names_what_was_not_asked(capsys):
    diagnose(practice_setup(), {"a": Question(lambda setup: None, 1, "", ""), "b": Question(lambda setup: 0.0, 1, "", "")})
    assert capsys.readouterr().out == "2 questions, 0 alarms; not applicable: a\n"


@pytest.mark.parametrize("tied", [lambda one, two: one, lambda one, two: two.requires_grad_() and setattr(two, "output", one.output) or two])
def test_a_model_that_exists_already_is_refused(setups, tied):
    one = MODELS["n-gram"]()
    kept = [weights.clone() for weights in one.parameters()]
    with pytest.raises(ValueError, match="has to build a new one"):
        examine(replace(setups["n-gram"], build=lambda seed: tied(one, MODELS["n-gram"]())))
    assert all(torch.equal(*pair) for pair in zip(kept, one.parameters()))


def test_the_practice_setup_is_healthy():
    assert not alarms(practice_setup())


def test_the_matrix_is_drawn_with_a_dot_for_each_alarm():
    axes = draw_matrix(MATRIX)
    dots = {(list(QUESTIONS)[int(x)], list(MATRIX)[int(y)]) for line in axes.lines for x, y in line.get_xydata()}
    assert dots == {(question, bug) for bug, questions in MATRIX.items() for question in questions}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MATRIX)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(QUESTIONS)
    with pytest.raises(KeyError):
        draw_matrix({"a bug": ["no such question"]})
    matplotlib.pyplot.close("all")


# The pieces of a healthy setup

@pytest.mark.parametrize("change, says", [
    ({"train": torch.zeros(8, dtype=torch.int64)}, "train is int64"), ({"validation": torch.zeros(8, 9)}, "validation is int64"),
    ({"train": torch.zeros(8, 4, dtype=torch.int64)}, "T of 4 or more"), ({"vocab_size": 9}, "vocab_size is 9"),
    ({"train": torch.full((8, 13), -1)}, "tokens from -1"), ({"batch_size": 1}, "not 1"), ({"batch_size": 49}, "all of the 48, not 49")])
def test_a_setup_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(practice_setup(), **change)


def test_text_rows():
    rows = text_rows(["abc", "é", "a long line"], 4)
    assert rows.dtype == torch.int64
    assert [bytes(row) for row in rows.tolist()] == [b"abc\n\0", "é\n".encode() + b"\0\0", b"a lon"]
    assert text_rows([], 4).shape == (0, 5)


@quick
@given(st.integers(0, 5), st.integers(0, 40), st.integers(2, 9))
def test_shuffled_rows_are_the_same_from_wherever_one_begins(seed, start, batch_size):
    setup = replace(practice_setup(), batch_size=batch_size)
    drawn = list(itertools.islice(shuffled_rows(setup, seed), start + 3))
    resumed = list(itertools.islice(shuffled_rows(setup, seed, start), 3))
    assert all(torch.equal(one, two) for one, two in zip(drawn[start:], resumed))


def test_each_epoch_has_each_row_once_in_another_order():
    setup = practice_setup()
    marked = replace(setup, vocab_size=48, train=torch.arange(48)[:, None].expand(-1, 13).contiguous())
    drawn = [batch[:, 0].tolist() for batch in itertools.islice(shuffled_rows(marked, 3), 12)]
    epochs = [sum(drawn[:6], []), sum(drawn[6:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(48))] * 2 and epochs[0] != epochs[1]


def by_hand(model, batch, pad=0):
    """The surprise of each counted target, by NumPy in double precision."""
    logits = model(batch[:, :-1]).detach().double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    targets = batch[:, 1:].numpy()
    surprise = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
    return surprise[targets != pad]


def test_the_loss_is_the_mean_surprise_of_what_is_no_padding():
    setup = practice_setup()
    model = setup.build(0).eval()
    assert np.isclose(setup.loss(model, setup.train).item(), by_hand(model, setup.train).mean(), rtol=1e-5)
    assert all_but_padding(setup, setup.train).sum() == len(by_hand(model, setup.train))
    assert all_but_padding(replace(setup, pad=None), setup.train).all()


def test_the_evaluation_weighs_each_target_the_same_and_leaves_the_mode():
    setup = practice_setup()
    model, parts = setup.build(0), setup.validation.split([1, 40, 7])
    expected = by_hand(model.eval(), setup.validation).mean()
    for training in True, False:
        assert np.isclose(mean_cost(setup, model.train(training), parts), expected, rtol=1e-5) and model.training == training
        assert np.isclose(cost_in_use(setup, model, setup.validation), expected, rtol=1e-5) and model.training == training


def test_a_part_in_another_mode_stays_in_it():
    setup = practice_setup()
    model = setup.build(0).train()
    model.dropout.eval()
    mean_cost(setup, model, [setup.validation]), cost_in_use(setup, model, setup.validation[:2])
    assert model.training and model.hidden.training and not model.dropout.training


def test_what_has_nothing_to_count_changes_nothing():
    setup = practice_setup()
    empty, batch = torch.zeros(3, 13, dtype=torch.int64), setup.train[:8]
    model = setup.build(0)
    assert mean_cost(setup, model, [batch, empty]) == mean_cost(setup, model, [batch])
    ends = []
    for batches in [batch], [empty, batch, empty]:
        model = without_dropout(setup.build(0))
        loss = one_update(setup, model, torch.optim.SGD(model.parameters(), lr=0.5), batches)
        ends.append([loss, *(weights.detach() for weights in model.parameters())])
    assert ends[0][0] == ends[1][0] and all(torch.equal(*pair) for pair in zip(ends[0][1:], ends[1][1:]))


@pytest.mark.parametrize("sizes", [[8], [4, 4], [1, 5, 2]])
def test_an_update_is_one_step_on_the_mean_over_all_micro_batches(sizes):
    setup = practice_setup()
    model, reference, batch = setup.build(0), setup.build(0), setup.train[:8]
    without_dropout(model), without_dropout(reference)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)  # of the step before
    loss = one_update(setup, model.eval(), torch.optim.SGD(model.parameters(), lr=0.5), batch.split(sizes))
    right = setup.loss(reference, batch)
    right.backward()
    assert model.training and np.isclose(loss, right.item(), rtol=1e-5)
    for after, before in zip(model.parameters(), reference.parameters()):
        assert torch.allclose(after, before - 0.5 * before.grad, atol=1e-6)


@quick
@given(st.integers(3, 9), st.one_of(st.none(), st.integers(0, 8)), st.integers(0, 99))
def test_other_tokens_are_others_and_no_padding(vocab_size, pad, seed):
    pad = pad if pad is None or pad < vocab_size else None
    setup = replace(practice_setup(vocab_size=16), vocab_size=16)
    object.__setattr__(setup, "vocab_size", vocab_size), object.__setattr__(setup, "pad", pad)
    torch.manual_seed(seed)
    tokens = torch.randint(vocab_size, (5, 7))
    others = other_tokens(setup, tokens)
    assert (others != tokens).all() and ((0 <= others) & (others < vocab_size)).all() and (pad is None or (others != pad).all())


def test_dropout_is_switched_off_in_every_layer():
    model = without_dropout(nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout1d(0.2)), nn.GRU(2, 2, num_layers=2, dropout=0.3),
                                          nn.MultiheadAttention(4, 2, dropout=0.1)))
    assert [model[0].p, model[1][0].p, model[2].dropout, model[3].dropout] == [0, 0, 0, 0]


def test_the_known_table_answers_with_its_rows():
    table = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(KnownTable(table)(torch.tensor([[2, 0]])), table[[2, 0]][None])


def test_shared_passages_are_found_wherever_a_row_is_cut():
    setup, rng = practice_setup(), np.random.default_rng(0)
    text = torch.from_numpy(rng.integers(1, 16, (20, 60)))
    train, validation = text[:10, :45].clone(), text[10:, :45].clone()
    assert shared_passages(replace(setup, train=train, validation=validation)) == 0
    validation[3, 2:34] = text[4, 11:43]  # 32 tokens of a training row, elsewhere in the row
    validation[5, 2:33] = text[6, 11:42]  # 31 tokens: no passage
    leaky = replace(setup, train=train, validation=validation)
    assert shared_passages(leaky) == pytest.approx(0.1) and shared_passages(replace(leaky, pad=None)) == pytest.approx(0.1)
    train[:2, 8:], validation[:2, 8:] = 0, 0  # what is mostly padding has no passage, and is not counted
    validation[:2, :8] = train[:2, :8]
    assert shared_passages(replace(leaky, train=train, validation=validation)) == pytest.approx(1 / 8)
    assert shared_passages(setup) is None
    train[2, 20:], validation[2, 20:] = 0, 0  # 20 tokens are no passage, but the whole of a row
    validation[2, :20] = train[2, :20]
    assert shared_passages(replace(leaky, train=train, validation=validation)) == pytest.approx(2 / 8)
    assert shared_passages(replace(leaky, train=train[:, :30], validation=validation[:, :25])) == pytest.approx(1 / 8)
