"""The n-gram models held against dictionaries of strings, and each method against its definition."""
import collections
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from practitioner.prediction import (add_k, as_bytes, bits_by_order, bits_per_byte, continuations, cross_entropy, discounts, find, generate,
                                     interpolation, kl_divergence, kneser_ney, NGram, NGramCounts, nodes_of, pack, perplexity, train_ngram,
                                     witten_bell)

quick = settings(max_examples=60, deadline=None, derandomize=True)
# texts of few different bytes, so that n-grams repeat; zeros and 255 among them
texts = st.lists(st.sampled_from([0, 1, 97, 98, 255]), min_size=1, max_size=60).map(bytes)
orders = st.integers(1, 13)
simplex = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda row: np.array(row) / sum(row))
RULES = {"add 1": add_k(1), "add a little": add_k(1e-3), "interpolation": interpolation([None] + [0.3] * 13), "Witten–Bell": witten_bell,
         "Kneser–Ney": kneser_ney(), "Kneser–Ney × 1.2": kneser_ney(1.2)}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def grams(text, n):
    """The n-grams that begin in the text, which zeros follow, with their counts."""
    padded = text + bytes(n)
    return collections.Counter(padded[i:i + n] for i in range(len(text)))


def spelled(counts):
    """The n-gram of each node, level by level."""
    levels = [[b""]]
    for keys in counts.keys[1:]:
        levels.append([levels[-1][key >> 8] + bytes([key & 255]) for key in keys.tolist()])
    return levels


# The trie

@quick
@given(texts, orders)
def test_the_trie_holds_every_n_gram_with_its_count(text, order):
    counts = NGramCounts(text, order)
    for n, level in enumerate(spelled(counts)):
        assert dict(zip(level, counts.counts[n].tolist())) == grams(text, n) and level == sorted(level)


@quick
@given(texts, orders)
def test_children_stand_where_first_says(text, order):
    counts = NGramCounts(text, order)
    levels = spelled(counts)
    for n in range(order):
        for i, gram in enumerate(levels[n]):
            children = levels[n + 1][counts.first[n][i]:counts.first[n][i + 1]]
            assert children == [longer for longer in levels[n + 1] if longer[:n] == gram] and children
            assert counts.counts[n][i] == sum(counts.counts[n + 1][counts.first[n][i]:counts.first[n][i + 1]])


@quick
@given(texts, texts, orders)
def test_nodes_are_the_n_grams_that_end_at_each_byte(text, other, order):
    counts = NGramCounts(text, order)
    levels = spelled(counts)
    for n, nodes in enumerate(nodes_of(counts, other)):
        for end, node in enumerate(nodes.tolist(), 1):
            gram = other[end - n:end] if end >= n else None
            assert (levels[n][node] == gram) if node >= 0 else (gram not in levels[n])


@quick
@given(texts, st.integers(2, 13))
def test_continuation_counts(text, order):
    counts = NGramCounts(text, order)
    levels = spelled(counts)
    for n in range(1, order):
        before = collections.Counter(longer[1:] for longer in levels[n + 1])
        assert continuations(counts)[n].tolist() == [max(before[gram], 1) for gram in levels[n]]
    assert continuations(counts) is continuations(counts) and continuations(counts)[0] is None


def test_packed_numbers_sort_as_their_bytes():
    data = as_bytes(bytes(np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8)))
    padded = data.tobytes() + bytes(8)
    for width in 1, 3, 8:
        assert pack(data, width).tolist() == [int.from_bytes(padded[i:i + width], "big") for i in range(300)]


@pytest.mark.parametrize("wanted, places", [([5], [1]), ([4, 3, 9, 10], [-1, 0, 2, -1]), ([], []), ([-1], [-1])])
def test_find(wanted, places):
    assert find(np.array([3, 5, 9]), np.array(wanted, np.int64)).tolist() == places


@pytest.mark.parametrize("arguments, named", [(("text", 0), "not 0"), (("text", 14), "not 14"), (("", 3), "not 0")])
def test_what_cannot_be_counted_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        NGramCounts(*arguments)


def test_too_many_different_runs_of_eight_bytes_are_refused(monkeypatch):
    """... where ranks of 24 bits would wrap; up to order 8 there are no ranks. The levels up to eight, which come first, are left out: they take time and change nothing."""
    monkeypatch.setattr("practitioner.prediction.trie_levels", lambda *given: [])
    text = np.random.default_rng(0).integers(0, 256, 2**24 + 1000, dtype=np.uint8)
    with pytest.raises(ValueError, match="at most 16,777,216 different runs of eight bytes, not 16,778,"):
        NGramCounts(text, 9)


def test_bytes():
    assert as_bytes("é").tolist() == [195, 169] and as_bytes(b"\0\xff").tolist() == [0, 255]
    data = np.array([1, 2], np.uint8)
    assert as_bytes(data) is data
    for wrong in np.array([1, 2]), np.zeros((2, 2), np.uint8):
        with pytest.raises(ValueError, match="array of uint8 with one axis"):
            as_bytes(wrong)


# The methods, from their definitions

def by_definition(method, text, order):
    """p(byte | context) as a function, from dictionaries of strings; None where the method has not that order."""
    tables = [grams(text, n) for n in range(order + 2)]

    def used(n, top):
        return tables[n] if top else {gram: max(sum(longer[1:] == gram for longer in tables[n + 1]), 1) for gram in tables[n]}

    levels = {(n, top): used(n, top) for n in range(1, order + 1) for top in {n == order, False} if top or n < order}

    def p(byte, context, n=order):
        if n == 0:
            return 1 / 256
        context = context[len(context) - n + 1:] if n > 1 else b""
        level = levels[n, n == order] if method.startswith("Kneser") else tables[n]
        row = {gram: count for gram, count in level.items() if gram[:-1] == context}
        count, total = row.get(context + bytes([byte]), 0), sum(row.values())
        if method == "add 1":
            return (count + 1) / (total + 256)
        lower = p(byte, context[1:], n - 1)
        if not row:
            return lower
        if method == "interpolation":
            return 0.7 * count / total + 0.3 * lower
        if method == "Witten–Bell":
            return (count + len(row) * lower) / (total + len(row))
        n1, n2, n3, n4 = (sum(value == i for value in level.values()) for i in (1, 2, 3, 4))
        d = [0, 0.5, 1, 1.5]
        if min(n1, n2, n3, n4) > 0:
            y = n1 / (n1 + 2 * n2)
            estimated = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            d = estimated if min(estimated) >= 0 else d
        if method == "Kneser–Ney × 1.2":
            d = [min(1.2 * each, i) for i, each in enumerate(d)]
        off = sum(d[min(value, 3)] for value in row.values())
        return (max(count - d[min(count, 3)], 0) + off * lower) / total
    return p


@pytest.mark.parametrize("method", ["add 1", "interpolation", "Witten–Bell", "Kneser–Ney", "Kneser–Ney × 1.2"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_a_method_is_what_its_definition_says(method, order):
    text = ("she sells sea shells by the sea shore; the shells she sells are sea shells, I am sure. " * 2 + "ssshhhhh").encode()
    other = b"he sells shore shells; \x00quick\xff she"
    p = by_definition(method, text, order)
    expected = [p(byte, other[max(0, i - order + 1):i], min(order, i + 1) if method != "add 1" else order) for i, byte in enumerate(other)]
    measured = NGram(NGramCounts(text, order + 1), RULES[method], order).probabilities(other)
    start = order  # before that, contexts are shorter than the order
    assert np.allclose(measured[start:], expected[start:], rtol=1e-12, atol=0)


def test_the_formulas_for_discounts_are_reached():
    """... and not the fallback alone: here by hand, N1 to N4 = 4, 2, 2, 1."""
    used = np.array([1] * 4 + [2] * 2 + [3] * 2 + [4] + [9])
    assert np.allclose(discounts(used), [0, 1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 2 / 2, 3 - 4 * 0.5 * 1 / 2])
    assert discounts(np.array([1, 1, 2, 3])).tolist() == [0, 0.5, 1, 1.5]
    assert discounts(np.array([1] * 9 + [2] + [3] * 9 + [4])).tolist() == [0, 0.5, 1, 1.5]  # the formula gives less than 0


@every_rule
@quick
@given(texts, texts, st.integers(1, 10))
def test_it_sums_to_one_and_both_ways_agree_to_the_bit(rule, text, other, order):
    model = NGram(NGramCounts(text, order), rule)
    state = model.start()
    for byte, p in zip(other, model.probabilities(other)):
        row = model.distribution(state)
        assert row.shape == (256,) and (row >= 0).all() and math.isclose(row.sum(), 1, abs_tol=1e-9) and row[byte] == p
        state = model.advance(state, byte)
        assert 1 <= len(state) <= order


@every_rule
def test_a_model_of_a_lower_order_uses_the_same_counts(rule):
    text, other = b"abracadabra" * 3, b"cadabrazzab"
    counts = NGramCounts(text, 5)
    bits = bits_by_order(counts, nodes_of(counts, other), rule)
    assert bits[0] == 8 and len(bits) == 6
    for n in range(1, 6):
        for model in NGram(counts, rule, n), NGram(NGramCounts(text, n), rule):
            assert math.isclose(np.mean(-np.log2(model.probabilities(other))), bits[n])


def test_an_order_that_was_not_counted_is_named():
    for order in 4, 0, -1:
        with pytest.raises(ValueError, match=f"up to 3, not {order}"):
            NGram(NGramCounts(b"abc", 3), kneser_ney(), order)


def test_the_usual_model():
    text = b"abracadabra" * 20
    for options in {}, {"order": 3, "scale": 1.0}:
        order, scale = options.get("order", 12), options.get("scale", 1.15)
        direct = NGram(NGramCounts(text, order), kneser_ney(scale))
        assert (train_ngram(text, **options).probabilities(b"abrac") == direct.probabilities(b"abrac")).all()


def test_a_larger_scale_leaves_more_and_never_more_than_all():
    counts = NGramCounts(b"abracadabra" * 5, 4)
    for n in range(1, 5):
        for top in {True, n == 4}:
            lefts = [kneser_ney(scale)(counts, n, top)[1] for scale in (0.5, 1, 2, 100)]
            assert all((low <= high).all() for low, high in zip(lefts, lefts[1:])) and np.allclose(lefts[-1].max(), 1, atol=1)
            share, left = kneser_ney(100)(counts, n, top)
            assert (share >= 0).all() and (left <= 1 + 1e-12).all()


# Sampling

def test_samples_follow_the_distribution():
    model = train_ngram(b"aaab" * 50, order=1)
    drawn = generate(model, 4000, np.random.default_rng(0))
    assert len(drawn) == 4000 and isinstance(drawn, bytes)
    expected = model.distribution(model.start())[ord("b")]
    assert abs(drawn.count(b"b") / 4000 - expected) < 4 * math.sqrt(expected / 4000)
    assert drawn == generate(model, 4000, np.random.default_rng(0)) != generate(model, 4000, np.random.default_rng(1))


def test_samples_go_on_from_the_prompt():
    model = train_ngram(b"abcdefgh" * 200, order=3)
    assert generate(model, 6, np.random.default_rng(0), prompt="ab") == b"cdefgh"
    assert generate(model, 0, np.random.default_rng(0)) == b""


# Cross-entropy and units

@quick
@given(simplex, simplex)
def test_divergence_agrees_with_scipy(p, q):
    assert math.isclose(kl_divergence(p, q), scipy.stats.entropy(p, q, base=2), abs_tol=1e-9)
    assert math.isclose(cross_entropy(p, q), scipy.stats.entropy(p, base=2) + scipy.stats.entropy(p, q, base=2), abs_tol=1e-9)


def test_the_impossible_costs_infinitely_much_only_if_it_happens():
    assert cross_entropy([0.5, 0.5], [1, 0]) == math.inf == kl_divergence([0.5, 0.5], [1, 0])
    assert cross_entropy([1, 0], [0.5, 0.5]) == 1 == kl_divergence([1, 0], [0.5, 0.5])
    assert cross_entropy([1, 0], [1, 0]) == 0


@pytest.mark.parametrize("p, q, named", [([1], [0.5, 0.5], r"\(1,\) and \(2,\)"), ([[1]], [1], r"\(1, 1\) and \(1,\)"), ([0.5, 0.4], [0.5, 0.5], "sum 0.9"), ([0.5, 0.5], [2, -1], "minimum -1")])
def test_what_is_no_distribution_is_named(p, q, named):
    with pytest.raises(ValueError, match=named):
        cross_entropy(p, q)


def test_units():
    assert math.isclose(bits_per_byte(math.log(16), 100, 400), 1) and bits_per_byte(0, 3, 7) == 0
    assert perplexity(3) == 8 and perplexity(0) == 1
    for wrong in (-1, 1, 1), (math.nan, 1, 1), (1, -1, 1), (1, 1, 0):
        with pytest.raises(ValueError, match="not negative"):
            bits_per_byte(*wrong)
