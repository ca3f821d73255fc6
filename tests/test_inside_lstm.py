"""What is seen inside an LSTM, how cells are searched, and writing with a state. Held against plain loops, PyTorch and SciPy."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from practitioner.inside_lstm import (auc, beyond_place, contrast, dealt, draw_token, inside_quotation, largest_by_chance, read_on, share_left, states_of,
                                      Talk, will_ask, write_on)
from practitioner.lstm import by_gates, LSTMLM, train_bpe
from practitioner.recurrence import StatefulSteps

quick = settings(max_examples=40, deadline=None, derandomize=True)


def small_model(seed=0, tied=False, vocab_size=11):
    """An LSTMLM whose gates are far from one half."""
    torch.manual_seed(seed)
    model = LSTMLM(vocab_size=vocab_size, n_embd=6, n_hidden=5, tied=tied).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


# states_of

@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stretch", [1, 4, 50])
def test_states_are_those_of_the_equations(tied, stretch):
    model, rows = small_model(tied=tied), torch.randint(11, (3, 17))
    kept, begins = states_of(model, rows, keep="ifgoch", stretch=stretch)
    layer, x = model.layers[0], model.embedding(rows)
    h = c = torch.zeros(3, 5).double()
    for t in range(17):
        if t % stretch == 0:
            assert np.allclose(begins[t // stretch], torch.stack([h, c]).detach())
        i, f, g, o = (x[:, t] @ layer.W.T + h @ layer.U.T + layer.b).chunk(4, dim=1)
        h, c = by_gates(x[:, t][None], h, c, layer.W, layer.U, layer.b)[1:]
        expected = dict(i=i.sigmoid(), f=f.sigmoid(), g=g.tanh(), o=o.sigmoid(), h=h, c=c)
        for name, values in kept.items():
            assert np.allclose(values[:, t], expected[name].detach()), (name, t)
    assert len(begins) == -(-17 // stretch)


def test_states_keep_what_is_asked_for_and_refuse_the_rest():
    model = small_model()
    kept, _ = states_of(model, torch.zeros(2, 3, dtype=torch.long), keep="of")
    assert set(kept) == {"o", "f"} and kept["o"].shape == (2, 3, 5)
    with pytest.raises(ValueError, match="'z'"):
        states_of(model, torch.zeros(2, 3, dtype=torch.long), keep="z")
    with pytest.raises(ValueError, match="not 2"):
        states_of(LSTMLM(vocab_size=11, n_layer=2), torch.zeros(2, 3, dtype=torch.long))


def test_reading_goes_on_from_a_stretch():
    model, rows = small_model(), torch.randint(11, (2, 20))
    _, begins = states_of(model, rows, stretch=8)
    with torch.no_grad():
        whole, (rest, _) = model(rows), model.run(rows[:, 8:], begins[1])
    assert torch.allclose(whole[:, 8:], rest)


# share_left

@quick
@given(st.integers(3, 30), st.integers(1, 40), st.integers(0, 5))
def test_the_share_left_is_a_product(T, most, seed):
    f = np.random.default_rng(seed).random((2, T, 3))
    if most >= T:
        with pytest.raises(ValueError, match=str(most)):
            share_left(f, most)
        return
    found = share_left(f, most)
    assert list(found) == [2 ** e for e in range(10) if 2 ** e <= most]
    for k, share in found.items():
        assert np.allclose(share, np.mean([f[:, t:t + k].prod(axis=1) for t in range(T - k + 1)], axis=(0, 1)))


# Labels

def shown(values):
    return "".join("-" if np.isnan(value) else str(int(value)) for value in values)


@pytest.mark.parametrize("pieces, expected", [
    (["he", ' "', "yes", " no", '."', " ok"], "0-11-0"),
    (["he", " said"], "--"),
    (['"', "left", " open"], "---"),
    (['"a"', "b", '"', "c", '"'], "-0-1-"),
    ([], ""),
])
def test_inside_a_quotation(pieces, expected):
    assert shown(inside_quotation(pieces)) == expected


@pytest.mark.parametrize("pieces, expected", [
    (["how", " are", " you", "?"], "111-"),
    (["well", ".", "and", " you", "?", " ok"], "0-11--"),
    (["what", "?!", "yes", "!"], "1-0-"),
    (["no", " mark"], "--"),
    (["?"], "-"),
    ([], ""),
])
def test_will_ask(pieces, expected):
    assert shown(will_ask(pieces)) == expected


# The statistic

@quick
@given(st.integers(0, 1000), st.booleans())
def test_a_contrast_gives_the_correlation(seed, binary):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=60)
    y = np.where(rng.random(60) < 0.3, np.nan, y > 0 if binary else y)
    x, at = rng.normal(size=60), np.isfinite(y)
    x[at] = (x[at] - x[at].mean()) / x[at].std()
    assert np.isclose(contrast(y) @ x, stats.pearsonr(y[at], x[at]).statistic, atol=1e-5)


def test_beyond_place_nothing_is_left_of_a_label_that_only_knows_the_place():
    place = np.tile(np.arange(1, 11), 20)
    y = np.where(place > 4, 1.0, 0.0)
    y[::7] = np.nan
    left = beyond_place(y, place)
    assert np.array_equal(np.isnan(left), np.isnan(y)) and np.nanmax(np.abs(left)) < 1e-12
    noise = np.random.default_rng(0).normal(size=200)
    assert np.allclose([beyond_place(noise, place)[place == p].mean() for p in range(1, 11)], 0)


def test_from_the_last_place_on_all_are_one():
    place = np.array([1, 2, 3, 4, 5])
    assert np.allclose(beyond_place(np.array([5.0, 1, 1, 4, 7]), place, most=3), [0, 0, -3, 0, 3])


@quick
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 9))
def test_dealt_labels_are_whole_runs_of_other_conversations(sizes, seed):
    y = np.concatenate([number * 100 + np.arange(size) for number, size in enumerate(sizes)])
    found, begin, owners = dealt(y, sizes, np.random.default_rng(seed)), 0, []
    for size in sizes:
        part = found[begin:begin + size]
        owner = part[0] // 100
        assert np.array_equal(part, np.resize(owner * 100 + np.arange(sizes[owner]), size))
        owners.append(owner)
        begin += size
    assert sorted(owners) == list(range(len(sizes)))


def test_the_largest_by_chance_is_a_maximum_over_cells():
    rng = np.random.default_rng(0)
    cells, y = rng.normal(size=(300, 4)).astype(np.float32), rng.normal(size=300)
    every = largest_by_chance(cells, y, [30] * 10, 25, np.random.default_rng(1))
    single = [largest_by_chance(cells[:, [cell]], y, [30] * 10, 25, np.random.default_rng(1)) for cell in range(4)]
    assert every.shape == (25,) and np.allclose(every, np.max(single, axis=0))


@quick
@given(st.integers(0, 1000), st.integers(1, 5))
def test_auc_is_that_of_mann_and_whitney(seed, levels):
    rng = np.random.default_rng(seed)
    y, score = np.arange(30) % 3 == 0, rng.integers(levels, size=30)
    assert np.isclose(auc(y, score), stats.mannwhitneyu(score[y], score[~y]).statistic / (10 * 20))


# Writing

def test_draws_follow_the_distribution_at_its_temperature():
    p, rng = np.array([0.1, 0.0, 0.6, 0.3]), np.random.default_rng(0)
    for temperature in 0.5, 1.0, 2.0:
        drawn = np.bincount([draw_token(p, temperature, rng) for _ in range(4000)], minlength=4)
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        assert drawn[1] == 0 and np.abs(drawn / 4000 - expected).max() < 0.04
    assert {draw_token(p, 1e-3, rng) for _ in range(20)} == {2}
    for temperature in 0, -1:
        with pytest.raises(ValueError, match=str(temperature)):
            draw_token(p, temperature, rng)


def test_everything_written_has_been_read():
    steps, rng = StatefulSteps(small_model()), np.random.default_rng(0)
    state = read_on(steps, steps.start(), [1, 2, 3])
    written, after = write_on(steps, state, 12, 1.0, rng)
    known = read_on(steps, steps.start(), [1, 2, 3, *written])
    assert len(written) == 12 and torch.equal(known[0], after[0]) and np.array_equal(known[1], after[1])


def test_greedy_writing_is_what_one_pass_holds_for_likeliest():
    model = small_model()
    steps, prompt = StatefulSteps(model), [4, 0, 7]
    written, _ = write_on(steps, read_on(steps, steps.start(), prompt), 15, 1e-4, np.random.default_rng(0))
    with torch.no_grad():
        assert model(torch.tensor([prompt + written]))[0].argmax(dim=-1)[2:-1].tolist() == written


def test_writing_ends_with_a_stop_token_or_at_its_length():
    steps = StatefulSteps(small_model())
    state = read_on(steps, steps.start(), [1])
    written, _ = write_on(steps, state, 200, 1.0, np.random.default_rng(0), stop={3, 5})
    assert written[-1] in {3, 5} and not {3, 5} & set(written[:-1])
    assert write_on(steps, state, 0, 1.0, np.random.default_rng(0)) == ([], state)


class Scripted:
    """Steps that write a given text, whatever they have read; the state is what was read."""

    def __init__(self, script, vocab_size):
        self.script, self.vocab_size, self.read = script, vocab_size, []

    def start(self):
        return ()

    def advance(self, state, token):
        return (*state, token)

    def distribution(self, state):
        p = np.full(self.vocab_size, 1e-9)
        p[self.script.pop(0)] = 1
        return p


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["A: hello there\nB: hello you\n\n"] * 5, 262)


def talk_of(tokenizer, answers, **options):
    script = [token for answer in answers for token in tokenizer.encode(answer).ids]
    return Talk(Scripted(script, tokenizer.get_vocab_size()), tokenizer, np.random.default_rng(0), **options)


def test_a_talk_reads_the_corpus_s_format(tokenizer):
    talk = talk_of(tokenizer, [" hello\n", " you\n"])
    assert talk.say("hi") == "hello" and talk.say("bye") == "you" and not talk.over
    assert tokenizer.decode(list(talk.state)) == "\n\nA: hi\nB: hello\nA: bye\nB: you\n"


def test_an_answer_that_is_too_long_is_ended(tokenizer):
    talk = talk_of(tokenizer, ["x" * 9], longest=4)
    assert talk.say("hi") == "xxxx" and tokenizer.decode(list(talk.state)) == "\n\nA: hi\nB:xxxx\n"


def test_the_model_may_end_the_conversation(tokenizer):
    talk = talk_of(tokenizer, [" you\n\n"])
    assert talk.say("hi") == "you" and talk.over == (len(tokenizer.encode("\n\n").ids) == 1)


@pytest.mark.parametrize("said", ["", "  ", "two\nlines", "line\n"])
def test_a_turn_is_one_line(tokenizer, said):
    with pytest.raises(ValueError, match="one line"):
        talk_of(tokenizer, []).say(said)
