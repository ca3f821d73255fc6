"""Information theory held against closed forms, scipy and brute force, and what each function refuses."""
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from practitioner.information import (conditional_entropy, decode, distribution, encode, entropy, expected_length, huffman_code,
                                      miller_madow, mutual_information, plug_in, surprise)

quick = settings(max_examples=150, deadline=None, derandomize=True)
weights = st.floats(0, 1e6, allow_nan=False) | st.just(0.0) | st.integers(0, 9).map(float)
distributions = st.lists(weights, min_size=1, max_size=12).filter(lambda row: sum(row) > 1e-6).map(lambda row: np.array(row) / sum(row))
joints = arrays.arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 9).map(float)).filter(np.any).map(
    lambda table: table / table.sum())
alphabets = st.lists(st.integers(1, 60) | st.floats(1e-3, 1e3), min_size=2, max_size=12).map(lambda row: dict(enumerate(row)))

# Surprise and entropy


@pytest.mark.parametrize("p, bits", [(1, 0), (0.5, 1), (0.25, 2), (2**-1000, 1000), (0, math.inf)])
def test_surprise(p, bits):
    assert surprise(p) == bits and math.copysign(1, surprise(p)) == 1


def test_surprise_of_an_array_has_its_shape():
    assert surprise([[1, 0.5], [0.25, 0]]).tolist() == [[0, 1], [2, math.inf]]


@pytest.mark.parametrize("p, named", [(-0.1, "-0.1"), (1.5, "1.5"), (math.nan, "nan"), (math.inf, "inf"), ([0.5, 2.5], "2.5")])
def test_surprise_names_what_is_no_probability(p, named):
    with pytest.raises(ValueError, match=rf"not {named}"):
        surprise(p)


@quick
@given(distributions)
def test_entropy_agrees_with_scipy(p):
    assert math.isclose(entropy(p), scipy.stats.entropy(p, base=2), abs_tol=1e-9)
    assert -1e-12 <= entropy(p) <= math.log2(len(p)) + 1e-9


@pytest.mark.parametrize("p, bits", [
    ([1], 0), ([1, 0], 0), ([0.5, 0.5], 1), ([[0.25, 0.25], [0.25, 0.25]], 2), ([1 / 1000] * 1000, math.log2(1000)),
    ([0.5, 0.25, 0.125, 0.125], 1.75), ([0.1, 0.9], -0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)),
    (0.5 ** np.append(np.arange(1, 50), 49), 2 - 2.0**-48)])
def test_entropy_in_closed_form(p, bits):
    """Certainty, coins, dice, a biased coin, and the waiting time for heads, which is 2 bits but for what was cut off."""
    assert math.isclose(entropy(p), bits, abs_tol=1e-12)


@pytest.mark.parametrize("p, named", [([0.5, 0.4], "sum 0.9"), ([1.5, -0.5], "minimum -0.5"), ([math.nan, 1], "nan"), ([math.inf, 0], "inf"),
                                      ([0.5, 0.5 + 1e-6], "sum 1.000001"), ([2, 3], "sum 5")])
def test_entropy_names_what_is_no_distribution(p, named):
    with pytest.raises(ValueError, match=named):
        entropy(p)


def test_entropy_of_nothing_is_refused():
    with pytest.raises(ValueError, match="sum"):
        entropy([])


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [2, -1], [math.nan, 1], [math.inf, 1]])
def test_distribution_refuses(counts):
    with pytest.raises(ValueError, match="counts"):
        distribution(counts)


def test_distribution():
    assert distribution([[1, 2], [0, 1]]).tolist() == [[0.25, 0.5], [0, 0.25]]


# Two variables

@quick
@given(joints)
def test_the_chain_rule(joint):
    """H(X, Y) = H(X) + H(Y | X), and conditioning never adds."""
    assert math.isclose(entropy(joint), entropy(joint.sum(axis=1)) + conditional_entropy(joint), abs_tol=1e-9)
    assert -1e-9 <= conditional_entropy(joint) <= entropy(joint.sum(axis=0)) + 1e-9


@quick
@given(joints)
def test_mutual_information_is_the_divergence_from_independence(joint):
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    assert math.isclose(mutual_information(joint), scipy.stats.entropy(joint.ravel(), independent.ravel(), base=2), abs_tol=1e-9)
    assert math.isclose(mutual_information(joint), mutual_information(joint.T), abs_tol=1e-9)


@pytest.mark.parametrize("joint, conditional, mutual", [
    (np.eye(4) / 4, 0, 2), (np.full((2, 8), 1 / 16), 3, 0), ([[0.5, 0], [0.25, 0.25]], 0.5, entropy([0.75, 0.25]) - 0.5), ([[0, 0], [0.5, 0.5]], 1, 0)])
def test_two_variables_in_closed_form(joint, conditional, mutual):
    """A copy, two that know nothing of each other, one that tells a little, a row that never happens."""
    assert math.isclose(conditional_entropy(joint), conditional, abs_tol=1e-12)
    assert math.isclose(mutual_information(joint), mutual, abs_tol=1e-12)


@pytest.mark.parametrize("function", [conditional_entropy, mutual_information])
@pytest.mark.parametrize("joint, named", [([[0.5, 0.25], [0.25, 0.25]], "1.25"), ([[0.5, 0.25], [0.0, 0.0]], "0.75"), ([[1.5, -0.5]], "-0.5"), ([[math.nan, 1]], "nan")])
def test_what_is_no_joint_distribution_is_refused(function, joint, named):
    with pytest.raises(ValueError, match=named):
        function(joint)


# Huffman's code

@quick
@given(alphabets)
def test_a_huffman_code_is_a_full_prefix_code_within_a_bit_of_the_entropy(weights):
    code = huffman_code(weights)
    assert code.keys() == weights.keys() and all(set(string) <= {"0", "1"} and string for string in code.values())
    assert not any(one != other and other.startswith(one) for one, other in itertools.permutations(code.values(), 2))
    assert len(set(code.values())) == len(code)
    assert sum(2.0 ** -len(string) for string in code.values()) == 1  # Kraft: nothing is left over
    bound = entropy(distribution(list(weights.values())))
    assert bound - 1e-9 <= expected_length(code, weights) < bound + 1


def full_lengths(symbols):
    """All ways to give so many symbols the lengths of a full prefix code, longest last."""
    found, level = set(), {(0,)}
    while level:
        found |= {lengths for lengths in level if len(lengths) == symbols}
        level = {tuple(sorted(lengths[:place] + (lengths[place] + 1,) * 2 + lengths[place + 1:])) for lengths in level
                 if len(lengths) < symbols for place in range(len(lengths))}
    return found


def test_the_brute_force_is_complete():
    """The number of full sets of lengths for 2 to 8 symbols is known (OEIS A002572)."""
    assert [len(full_lengths(symbols)) for symbols in range(2, 9)] == [1, 1, 2, 3, 5, 9, 16]


@quick
@given(st.lists(st.integers(1, 40), min_size=2, max_size=8))
def test_no_prefix_code_is_shorter(row):
    """Against every full set of lengths, the shortest for the heaviest."""
    weights = dict(enumerate(row))
    best = min(sum(weight * length for weight, length in zip(sorted(row, reverse=True), lengths)) for lengths in full_lengths(len(row)))
    assert math.isclose(expected_length(huffman_code(weights), weights), best / sum(row))


@quick
@given(alphabets, st.data())
def test_what_is_encoded_is_decoded(weights, data):
    code = huffman_code(weights)
    symbols = data.draw(st.lists(st.sampled_from(sorted(weights)), max_size=40))
    bits = encode(symbols, code)
    assert decode(bits, code) == symbols and len(bits) == sum(len(code[symbol]) for symbol in symbols)


def test_small_codes():
    assert huffman_code({"a": 3}) == {"a": "0"} and decode("000", {"a": "0"}) == ["a"] * 3
    assert sorted(map(len, huffman_code({"a": 8, "b": 4, "c": 2, "d": 1, "e": 1}).values())) == [1, 2, 3, 4, 4]
    assert huffman_code({"a": 1, "b": 1}) == huffman_code({"a": 1, "b": 1}), "ties are broken the same way each time"
    assert expected_length({"a": "0", "b": "10", "c": "11"}, {"a": 2, "b": 1, "c": 1}) == 1.5


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 1, "b": 0}, {"a": 1, "b": -1}, {"a": math.nan}, {"a": 1, "b": math.inf}], ids=str)
def test_weights_that_are_none_are_refused(weights):
    """The message shows them."""
    with pytest.raises(ValueError) as error:
        huffman_code(weights)
    assert str(weights) in str(error.value)


def test_an_unknown_symbol_and_bits_that_are_cut_are_refused():
    code = {"a": "0", "b": "10", "c": "11"}
    with pytest.raises(ValueError, match="'x'"):
        encode("abx", code)
    for bits, rest in ("1", "1"), ("0101", "1"):
        with pytest.raises(ValueError, match=f"mid-symbol, after '{rest}'"):
            decode(bits, code)


@quick
@given(alphabets, st.data())
def test_any_cut_is_noticed_or_ends_between_symbols(weights, data):
    """What is decoded before a cut is a beginning of what was encoded."""
    code = huffman_code(weights)
    symbols = data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=10))
    cut = encode(symbols, code)[:-1]
    if len(code[symbols[-1]]) == 1:
        assert decode(cut, code) == symbols[:-1]
    else:
        with pytest.raises(ValueError, match="mid-symbol"):
            decode(cut, code)


# Estimates

@pytest.mark.parametrize("counts, plain, corrected", [
    ([5], 0, 0), ([1, 1], 1, 1 + 1 / (4 * math.log(2))), ([2, 2, 2, 2], 2, 2 + 3 / (16 * math.log(2))), ([1, 1, 0, 0], 1, 1 + 1 / (4 * math.log(2)))])
def test_estimates_of_known_counts(counts, plain, corrected):
    """A symbol that was not seen changes neither."""
    assert math.isclose(plug_in(counts), plain, abs_tol=1e-12) and math.isclose(miller_madow(counts), corrected, abs_tol=1e-12)


@pytest.mark.parametrize("symbols, draws", [(4, 20), (27, 100), (27, 1000)])
def test_plug_in_is_too_low_and_the_correction_helps(symbols, draws):
    """The mean of many samples: below the truth by about (K − 1) / (2 n ln 2), and closer when corrected."""
    rng = np.random.default_rng(0)
    p = distribution(rng.exponential(size=symbols) + 0.2)
    samples = rng.multinomial(draws, p, size=2000)
    bias = entropy(p) - np.mean([plug_in(sample) for sample in samples])
    assert math.isclose(bias, (symbols - 1) / (2 * draws * math.log(2)), rel_tol=0.25)
    assert abs(entropy(p) - np.mean([miller_madow(sample) for sample in samples])) < bias / 3


@pytest.mark.parametrize("estimate", [plug_in, miller_madow])
@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [math.nan, 1]])
def test_estimates_refuse_what_is_no_count(estimate, counts):
    with pytest.raises(ValueError, match="counts"):
        estimate(counts)


def test_symbols_of_huffman_need_no_order_of_their_own():
    """Ties are broken by place, so symbols are never compared."""
    code = huffman_code({"a": 1, None: 1, (2,): 1, 3.5: 1})
    assert len(set(code.values())) == 4
