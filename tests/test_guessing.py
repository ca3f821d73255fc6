"""Shannon's game and the memory of text, held against closed forms, brute force and a machine with no browser."""
import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from practitioner.corpus import Conversation, serialise
from practitioner.guessing import (INSIDE, LETTERS, OTHER, SAME, Game, chance_information, letters, memory, pairs_apart, places, play, ranks, related,
                                   shannon_bounds, shuffle_turns, summary, unrank)
from practitioner.information import distribution, entropy, mutual_information

quick = settings(max_examples=100, deadline=None, derandomize=True)


class Table:
    """A model whose distribution depends on the byte before; ties are common, as its numbers are small and whole."""

    def __init__(self, seed, symbols=256, levels=4):
        self.table = np.random.default_rng(seed).integers(1, levels + 1, size=(symbols, symbols))

    def start(self):
        return 0

    def distribution(self, state):
        return distribution(self.table[state])

    def advance(self, state, symbol):
        return symbol


class Fixed(Table):
    def __init__(self, p):
        self.p = np.array(p, float)

    def distribution(self, state):
        return self.p


# Ranks, and back

@quick
@given(st.binary(max_size=60), st.integers(0, 5), st.sampled_from([1, 2, 4, 1000]))
def test_a_twin_reads_the_ranks(data, seed, levels):
    """With all tied, many tied, few tied."""
    model = Table(seed, levels=levels)
    found = ranks(model, data)
    assert found.shape == (len(data),) and unrank(model, found) == data
    assert unrank(model, list(map(int, found))) == data


@quick
@given(st.lists(st.integers(1, 256), max_size=40), st.integers(0, 5))
def test_any_ranks_are_some_text(numbers, seed):
    model = Table(seed)
    assert ranks(model, unrank(model, numbers)).tolist() == numbers


@pytest.mark.parametrize("p, expected", [
    ([0.5, 0.3, 0.2], [1, 2, 3]), ([0.2, 0.3, 0.5], [3, 2, 1]), ([0.25] * 4, [1, 2, 3, 4]),
    ([0.2, 0.4, 0.2, 0.2], [2, 1, 3, 4]), ([0, 1, 0], [2, 1, 3])])
def test_the_likelier_first_and_among_equals_the_smaller(p, expected):
    assert ranks(Fixed(p), range(len(p))).tolist() == expected


def test_text_is_its_utf_8():
    model = Table(0)
    assert ranks(model, "né").tolist() == ranks(model, "né".encode()).tolist() and len(ranks(model, "né")) == 3


@pytest.mark.parametrize("rank", [0, -1, 257])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=rf"between 1 and 256, not {rank}"):
        unrank(Table(0), [1, rank])


# The bounds

@pytest.mark.parametrize("counts, lower, upper", [
    ([9], 0, 0), ([5, 0, 0], 0, 0), ([1] * 2, 1, 1), ([3] * 27, math.log2(27), math.log2(27)), ([1] * 100, math.log2(100), math.log2(100)),
    ([3, 1], 0.5, entropy([0.75, 0.25])), ([0.5, 0.25, 0.25], 3 * 0.25 * math.log2(3), 1.5), ([1, 1, 0, 0], 1, 1)])
def test_bounds_in_closed_form(counts, lower, upper):
    """Certainty, uniform choices, and two small cases by hand; zeros at the end change nothing."""
    assert np.allclose(shannon_bounds(counts), (lower, upper), atol=1e-12)


@quick
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_the_lower_bound_is_the_lower_where_shares_fall(row):
    lower, upper = shannon_bounds(sorted(row, reverse=True))
    assert -1e-12 <= lower <= upper + 1e-12 <= math.log2(len(row)) + 1e-11


@quick
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 6))
def test_the_bounds_bracket_the_entropy_of_an_ideal_player(seed, symbols, contexts):
    """Exactly, from the probabilities themselves: the shares q are the mean of the sorted rows."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(symbols, 0.5), size=contexts)
    weights = rng.dirichlet(np.ones(contexts))
    truth = sum(weight * entropy(row) for weight, row in zip(weights, rows))
    lower, upper = shannon_bounds(weights @ -np.sort(-rows, axis=1))
    assert lower - 1e-9 <= truth <= upper + 1e-9
    worst, wide = shannon_bounds(weights @ np.sort(rows, axis=1))
    assert truth <= wide + 1e-9, "the upper bound is anybody's"


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [math.nan, 1]])
def test_bounds_refuse_what_is_no_count(counts):
    with pytest.raises(ValueError, match="counts"):
        shannon_bounds(counts)


# 27 symbols

@pytest.mark.parametrize("turns, expected", [
    (["Don't!", "OK, 2 late..."], "dont ok late "), (["A  b"], "a b "), (["naïve"], "na ve "), (["ab", "cd"], "ab cd "), (["'Tis"], "tis ")])
def test_letters(turns, expected):
    assert letters(turns) == expected and set(expected) <= set(LETTERS) and len(LETTERS) == 27


# The game

def test_a_game():
    """Wrong guesses count, repeated ones and what is no letter do not, and the end is the end."""
    game = Game("the cat", shown=4)
    assert game.known == "the "
    answers = [game.guess(key) for key in ["x", "x", "7", "", "at", "é", " ", "C", "a", "t", "t"]]
    assert answers == ["wrong", "tried before", "no letter", "no letter", "no letter", "no letter", "wrong", "right", "right", "right", "over"]
    assert game.ranks == [3, 1, 1] and game.known == game.text and game.tried == []


def test_wrong_guesses_are_forgotten_at_the_next_letter():
    game = Game("ab")
    assert [game.guess(key) for key in "bab"] == ["wrong", "right", "right"] and game.ranks == [2, 1]


@pytest.mark.parametrize("text, shown", [("Ab", 0), ("a.b", 0), ("ab", 3), ("ab", -1)])
def test_a_game_that_is_none_is_refused(text, shown):
    with pytest.raises(ValueError, match=f"shows between 0 and {len(text)} of them, not {shown}"):
        Game(text, shown)


def test_a_summary():
    assert summary([]) == summary(np.array([], int)) == "no letter yet"
    assert summary([1, 1, 1]) == "3 letters, 3 at the first guess; 0.00 to 0.00 bits per letter"
    corrected = 1 + 1 / (2 * 4 * math.log(2))
    assert summary([1, 2, 1, 2]) == f"4 letters, 2 at the first guess; 1.00 to {corrected:.2f} bits per letter"
    assert summary([27]).startswith("1 letters, 0 at")


def test_the_widget_plays_the_game():
    """Typing into its box is guessing; there is no browser and no kernel here."""
    game = Game("a cat", shown=2)
    screen, box = play(game, np.array([2, 1, 1])).children
    assert "a␣" in screen.value and "no letter yet" in screen.value and "role='status'" in screen.value and box.description
    for key in "xxc":
        box.value = key
        assert box.value == "", "the box is ready for the next"
    assert game.ranks == [2] and "right" in screen.value and "you: 1 letters, 0 at" in screen.value and "model: 1 letters, 0 at" in screen.value
    box.value = "tz"  # two at once: the last is meant
    assert "wrong" in screen.value and "tried: z" in screen.value
    for key in "at":
        box.value = key
    box.value = "q"
    assert "over" in screen.value and game.known == "a cat"


def test_a_space_is_a_guess_and_is_seen():
    game = Game("ab c", shown=1)
    screen, box = play(game, np.array([1, 1, 1])).children
    box.value = " "
    assert game.tried == [" "] and "␣" in screen.value


# Places and pairs

def conversation(*turns):
    return Conversation("c", turns, ("x", "y"))


TALK = [conversation("abca", "bb", "c"), conversation("ca", "abc")]


def test_places_are_those_of_the_serialised_text():
    data, turn, of = places(TALK)
    assert data.tobytes().decode() == "".join(serialise(each.turns) for each in TALK)
    assert turn.tolist() == [-1] * 3 + [0] * 4 + [-1] * 4 + [1] * 2 + [-1] * 4 + [2] + [-1] * 5 + [3] * 2 + [-1] * 4 + [4] * 3 + [-1] * 2
    assert of.tolist() == [0] * 20 + [1] * 14


def by_hand(talk, k):
    """Every pair of places, slowly."""
    found = {INSIDE: collections.Counter(), OTHER: collections.Counter(), SAME: collections.Counter()}
    for each in talk:
        spoken = []  # (place, character, turn)
        place = 0
        for number, said in enumerate(each.turns):
            spoken += [(place + 3 + i, character, number) for i, character in enumerate(said)]
            place += 3 + len(said) + 1
        for (s, x, a), (t, y, b) in itertools.product(spoken, repeat=2):
            if t - s == k:
                found[INSIDE if a == b else SAME if (a - b) % 2 == 0 else OTHER][x, y] += 1
    return found


def as_counter(table):
    return collections.Counter({(chr(x), chr(y)): int(table[x, y]) for x, y in zip(*np.nonzero(table))})


words = st.text("ab.", min_size=1, max_size=6)
talks = st.lists(st.lists(words, min_size=1, max_size=5).map(lambda turns: conversation(*turns)), min_size=1, max_size=3)


@quick
@given(talks, st.integers(1, 40))
def test_pairs_are_those_counted_by_hand(talk, k):
    where = places(talk)
    if k >= len(where[0]):
        with pytest.raises(ValueError, match=f"not {k}"):
            pairs_apart(where, k)
    else:
        assert {name: as_counter(table) for name, table in pairs_apart(where, k).items()} == by_hand(talk, k)


def test_pairs_of_a_small_talk():
    """a-b-c-a inside; from its last letter over the line break and the mark to b; from that letter over the whole turn of b to c."""
    inside, other, same = (pairs_apart(places(TALK), k) for k in (1, 5, 11))
    assert as_counter(inside[INSIDE]) == {("a", "b"): 2, ("b", "c"): 2, ("c", "a"): 2, ("b", "b"): 1}
    assert as_counter(other[OTHER]) == {("a", "b"): 1, ("b", "c"): 1, ("a", "a"): 1}
    assert as_counter(same[SAME]) == {("a", "c"): 1} and not same[INSIDE].any()
    assert not inside[OTHER].any() and not inside[SAME].any()


@pytest.mark.parametrize("k", [0, -1, 34])
def test_a_distance_that_is_none_is_refused(k):
    _, turn, of = places(TALK)
    with pytest.raises(ValueError, match=f"between 1 and 33, not {k}"):
        related(turn, of, k)


# Chance and memory

def test_independent_pairs_have_no_information_left():
    """As counted they seem to have some; less chance it is within four standard errors of none."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(60, 0.3), size=2)
    pairs = rng.multinomial(50_000, np.outer(p, q).ravel()).reshape(60, 60)
    plain, chance = mutual_information(distribution(pairs)), chance_information(pairs, draws=50)
    assert plain > 5 * chance.std() > 0 and abs(plain - chance.mean()) < 4 * chance.std()


def test_chance_is_the_known_bias():
    """(K − 1)(L − 1) / (2 n ln 2) for K and L equally likely symbols and many pairs; rows and columns that never occur add nothing."""
    for rows, columns in (8, 8), (3, 40):
        pairs = np.pad(np.full((rows, columns), 1000), 2)
        expected = (rows - 1) * (columns - 1) / (2 * pairs.sum() * math.log(2))
        assert math.isclose(chance_information(pairs, draws=400).mean(), expected, rel_tol=0.05)


def test_chance_needs_pairs():
    with pytest.raises(ValueError):
        chance_information(np.zeros((4, 4), int))


def one_turn(data):
    return np.asarray(data, np.uint8), np.zeros(len(data), int), np.zeros(len(data), int)


@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_memory_of_a_chain_is_known(flip):
    """Two states that change with the probability f: 1 − H((1 + (1 − 2f)^k) / 2) bits at the distance k."""
    data = np.cumsum(np.random.default_rng(0).random(400_000) < flip) % 2
    k, plain, bits, noise = memory(one_turn(data), [1, 2, 3, 6])[INSIDE]
    exact = [1 - entropy([(1 + (1 - 2 * flip)**d) / 2, (1 - (1 - 2 * flip)**d) / 2]) for d in k]
    assert k.tolist() == [1, 2, 3, 6] and np.allclose(bits, exact, rtol=0.06, atol=3e-5)
    assert (plain > bits).all() and (noise > 0).all()


def test_memory_keeps_only_what_has_enough_pairs():
    found = memory(one_turn(np.arange(100) % 3), [1, 50], enough=60)
    assert found[INSIDE][0].tolist() == [1] and found[OTHER].shape == found[SAME].shape == (4, 0)


def test_memory_follows_its_generator():
    where = one_turn(np.random.default_rng(0).integers(4, size=5000))
    run = lambda seed: memory(where, [1], enough=100, rng=np.random.default_rng(seed))[INSIDE][2]
    assert run(1) == run(1) != run(2)


def test_shuffled_turns_are_the_same_turns_elsewhere():
    talk = [conversation(*(f"{i}-{j}" for j in range(i + 2))) for i in range(6)]
    mixed = shuffle_turns(talk, np.random.default_rng(0))
    turns = [said for each in mixed for said in each.turns]
    assert sorted(turns) == sorted(said for each in talk for said in each.turns) and [len(each.turns) for each in mixed] == [2, 3, 4, 5, 6, 7]
    assert turns != sorted(turns) and all(isinstance(each, Conversation) for each in mixed) and talk[0].turns == ("0-0", "0-1")
