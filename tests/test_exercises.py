"""Every exercise's check refuses the stub and plausible wrong answers, each with a message, and accepts the solution.

A wrong answer here is a mistake that a beginner would really make. A new exercise needs at least three in WRONG."""
import ast
import codecs
import copy
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import math
import pathlib
import random
import re
import statistics
import warnings
from collections import Counter
from fractions import Fraction

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from scipy import stats

from practitioner.attention import angles, attend, causal_mask, sinusoids
from practitioner.book import judge
from practitioner.gradients import Value
from practitioner.diagnostics import first_batch, logits_of, other_tokens, practice_setup, shuffled_rows, without_dropout
from practitioner.information import entropy
from practitioner.recurrence import output_loss

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = ("exercise", "check", "solution")


# The exercises that the notebooks have

@functools.lru_cache(maxsize=None)
def read(path):
    """The notebook, which is read once for all tests of its exercises."""
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def kind(cell):
    """"exercise", "check", "solution" or None."""
    return next((tag for tag in cell.metadata.get("tags", []) if tag in KINDS), None)


def triples(cells):
    """The sources of consecutive code cells tagged exercise, check, solution, by the name of the function that is asked for."""
    found = {}
    for three in zip(cells, cells[1:], cells[2:]):
        if tuple(map(kind, three)) == KINDS:
            stub, check, solution = (cell.source for cell in three)
            [function] = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
            found[function.name] = stub, check, solution
    return found


@functools.lru_cache(maxsize=None)
def imports(path):
    """The import statements of a notebook, but for those inside other statements (its set-up on Colab), compiled."""
    trees = [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in code_cells(path) if kind(cell) is None]
    statements = [node for tree in trees for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return compile("\n".join(map(ast.unparse, statements)), f"the imports of {path.name}", "exec")


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXERCISES = {f"{path.stem}: {name}": (path, *sources) for path in NOTEBOOKS for name, sources in triples(code_cells(path)).items()}
every_exercise = pytest.mark.parametrize("exercise", EXERCISES)


class Tried:
    """An exercise as a reader meets it: the notebook's imports, its stub, and its check, run."""

    def __init__(self, exercise):
        path, self.stub_source, self.check_source, self.solution_source = EXERCISES[exercise]
        self.name = exercise.split(": ")[1]
        self.names = {"np": np, "judge": judge}
        written = read(path).metadata.get("nbdev", {}).get("default_exp")
        if written:  # a course's own notebook writes nothing into the package
            module = importlib.import_module(f"practitioner.{written}")
            self.names |= {name: getattr(module, name) for name in module.__all__}
        exec(imports(path), self.names)
        exec(self.stub_source, self.names)
        self.stub = self.names[self.name]
        exec(self.check_source, self.names)
        self.check = self.names[f"check_{self.name}"]


@every_exercise
def test_the_stub_is_refused_as_not_attempted(exercise, capsys):
    tried = Tried(exercise)
    assert capsys.readouterr().out == f"{tried.name}: not attempted yet. Write it in the cell above, then run this one again.\n"
    with pytest.raises(NotImplementedError):
        tried.check(tried.stub)


@every_exercise
def test_the_solution_is_accepted(exercise, capsys):
    """By its own cell, which calls the check on it, and by the check that judges a reader."""
    tried = Tried(exercise)
    capsys.readouterr()
    exec(tried.solution_source, tried.names)
    solution = tried.names[f"{tried.name}_solution"]
    judge(tried.check, solution)
    assert capsys.readouterr().out == f"{tried.name}_solution: correct.\n"
    last = ast.parse(tried.solution_source).body[-1]
    assert ast.unparse(last) == f"check_{tried.name}({tried.name}_solution)", "the solution's cell must end by checking it"
    assert tried.names[tried.name] is tried.stub, "the solution must not take the reader's name"


@every_exercise
def test_the_stub_says_what_to_write_and_nothing_else(exercise):
    tried = Tried(exercise)
    [function] = ast.parse(tried.stub_source).body
    assert ast.get_docstring(function) and ast.unparse(function.body[1:]) == "raise NotImplementedError"


def test_every_tagged_cell_belongs_to_an_exercise():
    """A check without its solution, or a code cell between the two, would be lost silently."""
    for path in NOTEBOOKS:
        cells = code_cells(path)
        tagged = [kind(cell) for cell in cells if kind(cell)]
        assert tagged == list(KINDS) * len(triples(cells)), path.stem
    assert EXERCISES


def test_a_triple_broken_apart_would_be_missed():
    """What the test above relies on."""
    cell = lambda source, *tags: nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    three = [cell("def f():\n    pass", "exercise"), cell("", "check"), cell("", "hide-cell", "solution")]
    assert list(triples(three)) == ["f"]
    assert not triples(three[:2] + [cell("x = 1")] + three[2:]) and not triples([three[0], three[2], three[1]])


# Wrong answers

def lines_of(text):
    return [line for line in text.split("\n") if line]


def by_prefix(text, strip):
    """Turns by the role at the beginning of the line, which `strip(line, role)` takes off."""
    return tuple([strip(line, role) for line in lines_of(text) if line.startswith(role)] for role in ("A: ", "B: "))


def turns_roles_left_on(text):
    return by_prefix(text, lambda line, role: line)


def turns_swapped(text):
    return by_prefix(text, lambda line, role: line.removeprefix(role))[::-1]


def turns_cut_at_every_colon(text):
    return by_prefix(text, lambda line, role: line.split(": ")[1])


def turns_last_part_after_a_colon(text):
    return by_prefix(text, lambda line, role: line.split(": ")[-1])


def turns_role_found_anywhere(text):
    return tuple([line.split(role, 1)[1] for line in lines_of(text) if role in line] for role in ("A: ", "B: "))


def turns_role_removed_everywhere(text):
    return by_prefix(text, lambda line, role: line.replace(role, ""))


def turns_lstrip(text):
    """lstrip takes off any of these characters, as many as there are: "A: All right" becomes "ll right"."""
    return by_prefix(text, lambda line, role: line.lstrip(role))


def turns_empty_lines_kept(text):
    lines = [line[3:] for line in text.split("\n")]
    return lines[0::2], lines[1::2]


def turns_in_pairs(text):
    lines = [line[3:] for line in lines_of(text)]
    pairs = list(zip(lines[0::2], lines[1::2]))
    return [a for a, _ in pairs], [b for _, b in pairs]


def strangers_first_speaker_only(train, test):
    known = {speaker for conversation in train for speaker in conversation.speakers}
    return [conversation for conversation in test if conversation.speakers[0] not in known]


def strangers_second_speaker_only(train, test):
    known = {speaker for conversation in train for speaker in conversation.speakers}
    return [conversation for conversation in test if conversation.speakers[1] not in known]


def strangers_both_must_be_known(train, test):
    known = {speaker for conversation in train for speaker in conversation.speakers}
    return [conversation for conversation in test if not known.issuperset(conversation.speakers)]


def strangers_by_pair(train, test):
    known = {conversation.speakers for conversation in train}
    return [conversation for conversation in test if conversation.speakers not in known]


def strangers_known_by_first_speaker(train, test):
    known = {conversation.speakers[0] for conversation in train}
    return [conversation for conversation in test if not known.intersection(conversation.speakers)]


def strangers_known_by_second_speaker(train, test):
    known = {conversation.speakers[1] for conversation in train}
    return [conversation for conversation in test if not known.intersection(conversation.speakers)]


def strangers_without_repeats(train, test):
    known = {speaker for conversation in train for speaker in conversation.speakers}
    return list({conversation for conversation in test if not known.intersection(conversation.speakers)})


def strangers_the_familiar(train, test):
    known = {speaker for conversation in train for speaker in conversation.speakers}
    return [conversation for conversation in test if known.intersection(conversation.speakers)]


def strangers_against_each_training_conversation(train, test):
    return [conversation for other in train for conversation in test if not set(other.speakers) & set(conversation.speakers)]


def kraft_strictly_below_one(lengths):
    return sum(Fraction(1, 2 ** length) for length in lengths) < 1


def kraft_exactly_one(lengths):
    return sum(Fraction(1, 2 ** length) for length in lengths) == 1


def kraft_in_floats(lengths):
    return sum(2.0 ** -length for length in lengths) <= 1


def kraft_in_floats_with_a_tolerance(lengths):
    return sum(2.0 ** -length for length in lengths) <= 1 + 1e-9


def kraft_enough_strings_of_the_longest(lengths):
    return len(lengths) <= 2 ** max(lengths)


def kraft_enough_strings_of_each_length(lengths):
    return all(lengths.count(length) <= 2 ** length for length in lengths)


def kraft_natural_exponential(lengths):
    return sum(math.exp(-length) for length in lengths) <= 1


def kraft_the_sum(lengths):
    return sum(Fraction(1, 2 ** length) for length in lengths)


def redundancy_entropy_over_maximum(p):
    return entropy(p) / np.log2(len(p))


def redundancy_natural_logarithm_of_k(p):
    return 1 - entropy(p) / np.log(len(p))


def redundancy_only_what_occurs(p):
    return 1 - entropy(p) / np.log2(np.count_nonzero(p)) if np.count_nonzero(p) > 1 else 1.0


def redundancy_in_bits(p):
    return np.log2(len(p)) - entropy(p)


def redundancy_not_divided(p):
    return 1 - entropy(p)


def redundancy_over_k(p):
    return 1 - entropy(p) / len(p)


def redundancy_nan_at_zero(p):
    p = np.asarray(p, dtype=float)
    return 1 - -(p * np.log2(p)).sum() / np.log2(len(p))


def redundancy_epsilon_in_the_logarithm(p):
    p = np.asarray(p, dtype=float)
    return 1 - -(p * np.log2(p + 1e-6)).sum() / np.log2(len(p))


def spread_maximum(runs):
    return max(abs(run - runs[0]) for run in runs)


def spread_mean(runs):
    return statistics.mean(abs(run - runs[0]) for run in runs[1:])


def spread_standard_deviation(runs):
    return statistics.stdev(runs)


def spread_with_signs(runs):
    return statistics.median(run - runs[0] for run in runs[1:])


def spread_sign_taken_last(runs):
    """|median(run) − runs[0]|: the same, unless runs lie on both sides of the first."""
    return abs(statistics.median(runs[1:]) - runs[0])


def spread_first_run_counted(runs):
    return statistics.median(abs(run - runs[0]) for run in runs)


def spread_middle_without_sorting(runs):
    distances = [abs(run - runs[0]) for run in runs[1:]]
    return distances[len(distances) // 2]


def spread_upper_middle(runs):
    distances = sorted(abs(run - runs[0]) for run in runs[1:])
    return distances[len(distances) // 2]


def spread_lower_middle(runs):
    return statistics.median_low(abs(run - runs[0]) for run in runs[1:])


def spread_around_the_median(runs):
    return statistics.median(abs(run - statistics.median(runs)) for run in runs)


def spread_of_neighbours(runs):
    return statistics.median(abs(later - run) for run, later in zip(runs, runs[1:]))


def compare_in_nats(loss, tokens, size):
    return loss * tokens / size, np.exp(loss), np.exp(loss * tokens / size)


def compare_per_token(loss, tokens, size):
    return loss / math.log(2), np.exp(loss), np.exp(loss)


def compare_tokens_and_bytes_swapped(loss, tokens, size):
    bits = loss / math.log(2) * size / tokens
    return bits, np.exp(loss), 2**bits


def compare_perplexity_of_bits_in_e(loss, tokens, size):
    bits = loss / math.log(2) * tokens / size
    return bits, np.exp(loss), np.exp(bits)


def compare_two_to_the_nats(loss, tokens, size):
    bits = loss / math.log(2) * tokens / size
    return bits, 2**loss, 2**bits


def compare_perplexity_divided(loss, tokens, size):
    bits = loss / math.log(2) * tokens / size
    return bits, np.exp(loss), np.exp(loss) * tokens / size


def discounted_from_unseen_too(counts, lower, d):
    return (np.maximum(counts - d, 0) + d * len(counts) * lower) / counts.sum() if counts.sum() else lower


def discounted_once(counts, lower, d):
    return (np.maximum(counts - d, 0) + d * lower) / counts.sum() if counts.sum() else lower


def discounted_nothing_given_back(counts, lower, d):
    return np.maximum(counts - d, 0) / counts.sum() if counts.sum() else lower


def discounted_normalised_afterwards(counts, lower, d):
    p = np.maximum(counts - d, 0) + lower
    return p / p.sum()


def discounted_only_to_the_unseen(counts, lower, d):
    p = np.maximum(counts - d, 0) / max(counts.sum(), 1)
    rest = np.where(counts == 0, lower, 0)
    return p + (1 - p.sum()) * rest / max(rest.sum(), 1e-12)


def discounted_without_a_zero_case(counts, lower, d):
    return (np.maximum(counts - d, 0) + d * np.count_nonzero(counts) * lower) / max(counts.sum(), 1)


def backoff_without_the_factor(grams, context, symbol):
    if grams[context + symbol]:
        return grams[context + symbol] / grams[context]
    return backoff_without_the_factor(grams, context[1:], symbol) if context else 0


def backoff_drops_the_last_of_the_context(grams, context, symbol):
    if grams[context + symbol]:
        return grams[context + symbol] / grams[context]
    return 0.4 * backoff_drops_the_last_of_the_context(grams, context[:-1], symbol) if context else 0


def backoff_only_once(grams, context, symbol):
    if grams[context + symbol]:
        return grams[context + symbol] / grams[context]
    return 0.4 * grams[symbol] / grams[""]


def backoff_interpolates(grams, context, symbol):
    own = grams[context + symbol] / grams[context] if grams[context] else 0
    return own + 0.4 * backoff_interpolates(grams, context[1:], symbol) if context else own


def backoff_free_past_unseen_contexts(grams, context, symbol):
    if not context or grams[context + symbol]:
        return grams[context + symbol] / grams[context]
    return (0.4 if grams[context] else 1) * backoff_free_past_unseen_contexts(grams, context[1:], symbol)


def delimiting_zeros_may_follow(low, width):
    k = 0
    while (m := -(-low * 2**k // 1)) >= (low + width) * 2**k:
        k += 1
    return f"{int(m):0{k}b}" if k else ""


def delimiting_open_above(low, width):
    k = 0
    while -(-low * 2**k // 1) + 1 >= (low + width) * 2**k:
        k += 1
    return f"{int(-(-low * 2**k // 1)):0{k}b}" if k else ""


def delimiting_zeros_in_front_lost(low, width):
    k = 0
    while -(-low * 2**k // 1) + 1 > (low + width) * 2**k:
        k += 1
    return f"{int(-(-low * 2**k // 1)):b}" if k else ""


def delimiting_cut_midpoint(low, width):
    """The middle, cut after ceil(log2 1/width) + 1 digits: it delimits itself, and is not always the shortest."""
    k = math.ceil(-math.log2(width)) + 1
    return f"{int((low + width / 2) * 2**k):0{k}b}"


def delimiting_rounded_down(low, width):
    k = 0
    while low * 2**k // 1 + 1 > (low + width) * 2**k:
        k += 1
    return f"{int(low * 2**k // 1):0{k}b}" if k else ""


def delimiting_at_least_one_digit(low, width):
    k = 1
    while -(-low * 2**k // 1) + 1 > (low + width) * 2**k:
        k += 1
    return f"{int(-(-low * 2**k // 1)):0{k}b}"


def waste_cross_entropy(p, sizes):
    some = p > 0
    return float(-np.sum(p[some] * np.log2(sizes[some] / sizes.sum())))


def waste_in_nats(p, sizes):
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / (sizes[some] / sizes.sum()))))


def waste_other_way_round(p, sizes):
    q = sizes / sizes.sum()
    return float(np.sum(q * np.log2(q / np.maximum(p, 1e-300))))


def waste_sizes_not_divided(p, sizes):
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / sizes[some])))


def waste_nan_at_zero(p, sizes):
    return float(np.sum(p * np.log2(p / (sizes / sizes.sum()))))


def waste_unweighted(p, sizes):
    some = p > 0
    return float(np.mean(np.log2(p[some] / (sizes[some] / sizes.sum()))))


def waste_negative(p, sizes):
    some = p > 0
    return float(np.sum(p[some] * np.log2(sizes[some] / sizes.sum() / p[some])))


def one_guess_natural_logarithms(h, K):
    return (entropy([h, 1 - h]) + (1 - h) * np.log2(K - 1)) * np.log(2)


def one_guess_misses_over_all_symbols(h, K):
    return entropy([h, 1 - h]) + (1 - h) * np.log2(K)


def one_guess_only_hit_or_miss(h, K):
    return entropy([h, 1 - h])


def one_guess_hit_or_miss_forgotten(h, K):
    return (1 - h) * np.log2(K - 1)


def one_guess_hits_for_misses(h, K):
    return entropy([h, 1 - h]) + h * np.log2(K - 1)


def one_guess_misses_not_weighted(h, K):
    return entropy([h, 1 - h]) + np.log2(K - 1)


def one_guess_nan_at_the_ends(h, K):
    h = np.float64(h)
    return -h * np.log2(h) - (1 - h) * np.log2((1 - h) / (K - 1))


def one_guess_share_of_the_maximum(h, K):
    return (1 - h) * np.log2(K)


def pairs_turns_joined(turns, k):
    text = "".join(turns)
    return Counter(zip(text, text[k:]))


def pairs_up_to_k(turns, k):
    return Counter(pair for turn in turns for distance in range(1, k + 1) for pair in zip(turn, turn[distance:]))


def pairs_k_between(turns, k):
    return Counter(pair for turn in turns for pair in zip(turn, turn[k + 1:]))


def pairs_last_left_out(turns, k):
    return Counter((turn[t], turn[t + k]) for turn in turns for t in range(len(turn) - k - 1))


def pairs_without_order(turns, k):
    return Counter(tuple(sorted(pair)) for turn in turns for pair in zip(turn, turn[k:]))


def pairs_each_once(turns, k):
    return Counter({pair for turn in turns for pair in zip(turn, turn[k:])})


def pairs_of_the_last_turn(turns, k):
    for turn in turns:
        found = Counter(zip(turn, turn[k:]))
    return found


def pairs_wrapped_around(turns, k):
    """A negative index takes from the end, silently."""
    return Counter((turn[t - k], turn[t]) for turn in turns for t in range(len(turn)))


def pairs_second_first(turns, k):
    return Counter((y, x) for turn in turns for x, y in zip(turn, turn[k:]))


def sigmoid_without_parents(value):
    return Value(1 / (1 + math.exp(-value.data)))


def sigmoid_derivative_of_the_input(value):
    p = 1 / (1 + math.exp(-value.data))
    return Value(p, [(value, value.data * (1 - value.data))])


def sigmoid_derivative_p(value):
    p = 1 / (1 + math.exp(-value.data))
    return Value(p, [(value, p)])


def sigmoid_derivative_one_minus_p(value):
    p = 1 / (1 + math.exp(-value.data))
    return Value(p, [(value, 1 - p)])


def sigmoid_derivative_of_tanh(value):
    p = 1 / (1 + math.exp(-value.data))
    return Value(p, [(value, 1 - p * p)])


def sigmoid_of_the_negative(value):
    p = 1 / (1 + math.exp(value.data))
    return Value(p, [(value, p * (1 - p))])


def sigmoid_of_several_nodes(value):
    return 1 / (1 + (-value).exp())


def lookup_assigned(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    back[rows] = gradient
    return back


def lookup_added_once(gradient, rows, V):
    """What NumPy does where an index stands twice."""
    back = np.zeros((V, gradient.shape[1]))
    back[rows] += gradient
    return back


def lookup_looked_up_again(gradient, rows, V):
    return gradient[np.minimum(rows, len(gradient) - 1)]


def lookup_in_the_order_of_the_text(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    back[:len(gradient)] = gradient
    return back


def lookup_mean(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    np.add.at(back, rows, gradient)
    return back / np.maximum(np.bincount(rows, minlength=V), 1)[:, None]


def lookup_columns_summed(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    np.add.at(back, rows, gradient.sum(axis=1, keepdims=True))
    return back


def lookup_of_three_tokens(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    for t in range(3):
        back[rows[t]] += gradient[t]
    return back


def lookup_of_two_columns(gradient, rows, V):
    back = np.zeros((V, gradient.shape[1]))
    for c in range(2):
        np.add.at(back[:, c], rows, gradient[:, c])
    return back


def lookup_always_two_wide(gradient, rows, V):
    back = np.zeros((V, 2))
    np.add.at(back, rows, gradient[:, :2])
    return back


def complex_step_real_part(f, x):
    return (f(x + 1e-30j)).real / 1e-30


def complex_step_not_divided(f, x):
    return f(x + 1e-30j).imag


def complex_step_subtracted(f, x):
    return ((f(x + 1e-30j) - f(x)) / 1e-30)


def complex_step_real_direction(f, x):
    return (f(x + 1e-30) - f(x)) / 1e-30


def complex_step_central(f, x):
    return (f(x + 6e-6) - f(x - 6e-6)) / 12e-6


def complex_step_too_long(f, x):
    return f(x + 1e-3j).imag / 1e-3


def complex_step_absolute(f, x):
    return abs(f(x + 1e-30j).imag) / 1e-30


# 91_mathematics: log_sum_exp

def log_sum_exp_overflowing(z):
    return np.log(np.exp(z).sum(axis=-1))


def log_sum_exp_one_maximum_for_all(z):
    return np.log(np.exp(z - z.max()).sum(axis=-1)) + z.max()


def log_sum_exp_maximum_not_added_back(z):
    return np.log(np.exp(z - z.max(axis=-1, keepdims=True)).sum(axis=-1))


def log_sum_exp_over_everything(z):
    return np.log(np.exp(z - z.max()).sum()) + z.max()


def log_sum_exp_axis_kept(z):
    m = z.max(axis=-1, keepdims=True)
    return np.log(np.exp(z - m).sum(axis=-1, keepdims=True)) + m


def log_sum_exp_over_the_first_axis(z):
    m = z.max(axis=0)
    return np.log(np.exp(z - m).sum(axis=0)) + m


def log_sum_exp_the_maximum_itself(z):
    return z.max(axis=-1)


def log_sum_exp_minimum_subtracted(z):
    m = z.min(axis=-1, keepdims=True)
    return np.log(np.exp(z - m).sum(axis=-1)) + m[..., 0]


def log_sum_exp_in_bits(z):
    m = z.max(axis=-1, keepdims=True)
    return np.log2(np.exp(z - m).sum(axis=-1)) + m[..., 0]


def log_sum_exp_last_subtracted(z):
    return np.log(np.exp(z - z[..., -1:]).sum(axis=-1)) + z[..., -1]


def log_sum_exp_first_subtracted(z):
    return np.log(np.exp(z - z[..., :1]).sum(axis=-1)) + z[..., 0]


def log_sum_exp_transposed(z):
    """Right for one axis and for two."""
    m = z.max(axis=-1)
    return np.log(np.exp(z.T - m.T).sum(axis=0)) + m.T


def log_sum_exp_over_axis_one(z):
    axis = min(1, z.ndim - 1)
    m = z.max(axis=axis, keepdims=True)
    return np.log(np.exp(z - m).sum(axis=axis)) + m.squeeze(axis)


# 91_mathematics: squared_distances

def distances_with_the_root(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=-1))


def distances_transposed(x, y):
    return ((x[None] - y[:, None]) ** 2).sum(axis=-1)


def distances_summed_over_the_wrong_axis(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(axis=1)


def distances_dot_products(x, y):
    return x @ y.T


def distances_without_the_cross_term(x, y):
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)


def distances_cross_term_once(x, y):
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - x @ y.T


def distances_of_absolute_values(x, y):
    return np.abs(x[:, None] - y[None]).sum(axis=-1)


def distances_mean(x, y):
    return ((x[:, None] - y[None]) ** 2).mean(axis=-1)


# 91_mathematics: posterior

def posterior_hit_rate(prior, hit, alarm, times):
    return hit**times


def posterior_once(prior, hit, alarm, times):
    return prior * hit / (prior * hit + (1 - prior) * alarm)


def posterior_without_prior(prior, hit, alarm, times):
    return hit**times / (hit**times + alarm**times)


def posterior_alarm_of_all(prior, hit, alarm, times):
    return prior * hit**times / (prior * hit**times + alarm**times)


def posterior_alarm_as_misses(prior, hit, alarm, times):
    return prior * hit**times / (prior * hit**times + (1 - prior) * (1 - hit)**times)


def posterior_joint(prior, hit, alarm, times):
    return prior * hit**times


def posterior_evidence_times_the_number(prior, hit, alarm, times):
    ill, healthy = prior * hit * times, (1 - prior) * alarm * times
    return ill / (ill + healthy) if times else prior


def broadcast_from_the_left(a, b):
    length = max(len(a), len(b))
    return broadcast_right(a + (1,) * (length - len(a)), b + (1,) * (length - len(b)))


def broadcast_right(a, b):
    length = max(len(a), len(b))
    a, b = (1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b
    if any(m != n and 1 not in (m, n) for m, n in zip(a, b)):
        raise ValueError
    return tuple(n if m == 1 else m for m, n in zip(a, b))


def broadcast_always_the_larger(a, b):
    length = max(len(a), len(b))
    return tuple(map(max, (1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b))


def broadcast_larger_where_it_fits(a, b):
    """An axis of length 0 is not stretched: it stays 0."""
    broadcast_right(a, b)
    return broadcast_always_the_larger(a, b)


def broadcast_only_common_axes(a, b):
    return tuple(reversed([max(m, n) for m, n in zip(reversed(a), reversed(b))]))


def broadcast_only_ones(a, b):
    if len(a) != len(b):
        raise AssertionError("the shapes must be equally long")
    return broadcast_right(a, b)


def broadcast_first_wins(a, b):
    return a if len(a) >= len(b) else b


def broadcast_as_a_list(a, b):
    return list(broadcast_right(a, b))


def standardise_columns(x):
    centred = x - x.mean(dim=0)
    return centred / (centred**2).mean(dim=0).sqrt()


def standardise_without_keepdim(x):
    centred = x - x.mean(dim=1)
    return centred / (centred**2).mean(dim=1).sqrt()


def standardise_all_at_once(x):
    return (x - x.mean()) / x.std(correction=0)


def standardise_over_one_less(x):
    return (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True)


def standardise_only_centred(x):
    return x - x.mean(dim=1, keepdim=True)


def standardise_by_the_variance(x):
    return (x - x.mean(dim=1, keepdim=True)) / x.var(dim=1, keepdim=True, correction=0)


def standardise_in_place(x):
    x -= x.mean(dim=1, keepdim=True)
    return x / (x**2).mean(dim=1, keepdim=True).sqrt()


def standardise_mean_squares_not_centred(x):
    return (x - x.mean(dim=1, keepdim=True)) / (x**2).mean(dim=1, keepdim=True).sqrt()
# 26_silent_bugs

def update_as_found(setup, model, optimizer, batches):
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss = setup.loss(model, batch) / len(batches)
        loss.backward()
    optimizer.step()
    return loss.item()


def update_variation(weigh, zero=True, step_each=False, train=True, returned=None, empty=False):
    """An update that weighs a loss by `weigh(count, all counts)`."""
    def update(setup, model, optimizer, batches):
        counts = [setup.counted(setup, batch).sum().item() for batch in batches]
        if train:
            model.train()
        if zero:
            optimizer.zero_grad()
        losses = []
        for batch, count in zip(batches, counts):
            if not count and not empty:
                continue
            losses.append(setup.loss(model, batch) * weigh(count, counts))
            losses[-1].backward()
            if step_each:
                optimizer.step()
                optimizer.zero_grad()
        if not step_each:
            optimizer.step()
        return sum(loss.item() for loss in losses) if returned is None else returned(losses)
    return update


def share_of_targets(count, counts):
    return count / sum(counts)


update_mean_of_means = update_variation(lambda count, counts: 1 / len(counts))
update_sum = update_variation(lambda count, counts: 1)
update_not_zeroed = update_variation(share_of_targets, zero=False)
update_step_each = update_variation(share_of_targets, step_each=True)
update_mode_left = update_variation(share_of_targets, train=False)
update_returns_a_tensor = update_variation(share_of_targets, returned=sum)
update_of_nothing = update_variation(share_of_targets, empty=True)
update_returns_the_last = update_variation(share_of_targets, returned=lambda losses: losses[-1].item())


update_rightly = update_variation(share_of_targets)


def update_all_at_once(setup, model, optimizer, batches):
    return update_rightly(setup, model, optimizer, [torch.cat(batches)])


def update_mode_after_the_step(setup, model, optimizer, batches):
    loss = update_variation(share_of_targets, train=False)(setup, model, optimizer, batches)
    model.train()
    return loss


def update_loss_after_the_step(setup, model, optimizer, batches):
    update_rightly(setup, model, optimizer, batches)
    counted = [(setup.loss(model, batch).item(), count_of_targets(setup, batch)) for batch in batches if count_of_targets(setup, batch)]
    return sum(loss * count for loss, count in counted) / sum(count for _, count in counted)


def update_loss_evaluated_after_the_step(setup, model, optimizer, batches):
    update_rightly(setup, model, optimizer, batches)
    loss = practice_setup().evaluate(practice_setup(), model, batches)
    model.train()
    return loss


def evaluate_as_found(setup, model, batches):
    model.eval()
    losses = [setup.loss(model, batch) for batch in batches]
    return sum(losses) / len(losses)


def evaluate_variation(weigh=None, mode=True, back=True, graph=False, empty=False):
    """An evaluation that weighs a loss by `weigh(setup, batch)`."""
    def evaluate(setup, model, batches):
        was_training = model.training
        if mode:
            model.eval()
        batches = [batch for batch in batches if empty or count_of_targets(setup, batch)]
        with torch.set_grad_enabled(graph):
            losses = [setup.loss(model, batch).item() for batch in batches]
        weights = [(weigh or count_of_targets)(setup, batch) for batch in batches]
        if back:
            model.train(was_training if back is True else True)
        return sum(loss * weight for loss, weight in zip(losses, weights)) / sum(weights)
    return evaluate


def count_of_targets(setup, batch):
    return setup.counted(setup, batch).sum().item()


evaluate_mean_of_means = evaluate_variation(lambda setup, batch: 1)
evaluate_by_rows = evaluate_variation(lambda setup, batch: len(batch))
evaluate_by_places = evaluate_variation(lambda setup, batch: batch[:, 1:].numel())
evaluate_with_dropout = evaluate_variation(mode=False)
evaluate_mode_left = evaluate_variation(back=False)
evaluate_always_to_training = evaluate_variation(back="training")
evaluate_by_what_is_not_zero = evaluate_variation(lambda setup, batch: int((batch[:, 1:] != 0).sum()))
evaluate_nothing = evaluate_variation(empty=True)
evaluate_with_a_graph = evaluate_variation(graph=True)


def batches_as_found(setup, seed, start=0):
    np.random.seed(seed)
    order = np.random.permutation(len(setup.train))
    size, per_epoch = setup.batch_size, len(setup.train) // setup.batch_size
    while True:
        for place in range(start % per_epoch, per_epoch):
            yield setup.train[order[place * size:(place + 1) * size]]


def batches_variation(order_of):
    """Batches in the order that `order_of(setup, seed, start, epoch)` gives to an epoch."""
    def batches(setup, seed, start=0):
        size, per_epoch = setup.batch_size, len(setup.train) // setup.batch_size
        epoch, place = divmod(start, per_epoch)
        while True:
            order = order_of(setup, seed, start, epoch)
            for place in range(place, per_epoch):
                yield setup.train[order[place * size:(place + 1) * size]]
            epoch, place = epoch + 1, 0
    return batches


def permuted(setup, seed):
    return np.random.default_rng(seed).permutation(len(setup.train))


batches_one_order = batches_variation(lambda setup, seed, start, epoch: permuted(setup, [seed]))
batches_seed_plus_epoch = batches_variation(lambda setup, seed, start, epoch: permuted(setup, seed + epoch))
batches_seed_forgotten = batches_variation(lambda setup, seed, start, epoch: permuted(setup, epoch))
batches_not_shuffled = batches_variation(lambda setup, seed, start, epoch: np.arange(len(setup.train)))
batches_shuffled_anew_on_resume = batches_variation(lambda setup, seed, start, epoch: permuted(setup, [seed, start, epoch]))
batches_with_replacement = batches_variation(lambda setup, seed, start, epoch: np.random.default_rng([seed, epoch]).integers(len(setup.train), size=len(setup.train)))
batches_unseeded = batches_variation(lambda setup, seed, start, epoch: np.random.default_rng().permutation(len(setup.train)))


def batches_by_the_global_torch(setup, seed, start=0):
    torch.manual_seed(seed)
    yield from shuffled_rows(setup, seed, start)


def batches_by_the_global_random(setup, seed, start=0):
    random.seed(seed)
    yield from shuffled_rows(setup, seed, start)


batches_alternating = batches_variation(lambda setup, seed, start, epoch: permuted(setup, [seed, epoch % 2]))


def batches_with_the_remainder(setup, seed, start=0):
    size, per_epoch = setup.batch_size, -(-len(setup.train) // setup.batch_size)
    for step in itertools.count(start):
        order, place = permuted(setup, [seed, step // per_epoch]), step % per_epoch
        yield setup.train[order[place * size:(place + 1) * size]]


def unread_without_noise(setup):
    model, tokens = without_dropout(setup.build(0)), first_batch(setup)[:4, :-1]
    before, same = logits_of(model, tokens), []
    for t in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t] = other_tokens(setup, changed[:, t])
        same.append((logits_of(model, changed)[:, t] == before[:, t]).all(dim=-1))
    return torch.stack(same).double().mean().item()


def batches_from_the_start(setup, seed, start=0):
    return shuffled_rows(setup, seed)


def unread_all_at_once(setup):
    model, tokens = without_dropout(setup.build(0)), first_batch(setup)[:4, :-1]
    same = logits_of(model, other_tokens(setup, tokens)) == logits_of(model, tokens)
    return same.all(-1).double().mean().item()


def unread_variation(look=lambda logits, t: logits[:, t], quiet=True, of=lambda share: share):
    def unread(setup):
        model, tokens = setup.build(0), first_batch(setup)[:4, :-1]
        logits = (lambda tokens: logits_of(without_dropout(model), tokens)) if quiet else model
        before, same = logits(tokens), []
        for t in range(tokens.shape[1]):
            changed = tokens.clone()
            changed[:, t] = other_tokens(setup, changed[:, t])
            same.append((look(logits(changed), t) == look(before, t)).all(-1).double().mean().item())
        return of(sum(same) / len(same))
    return unread


unread_any_place = unread_variation(look=lambda logits, t: logits)
unread_the_next_place = unread_variation(look=lambda logits, t: logits[:, min(t + 1, logits.shape[1] - 1)])
unread_the_share_read = unread_variation(of=lambda share: 1 - share)
unread_with_dropout = unread_variation(quiet=False)
# 25_experiments

def tidy_keeps_the_torn_line(text):
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def tidy_first_counts(text):
    records = {}
    for line in text.rpartition("\n")[0].splitlines():
        record = json.loads(line)
        records.setdefault(record["step"], record)
    return [records[step] for step in sorted(records)]


def tidy_later_steps_stay(text):
    records = {json.loads(line)["step"]: json.loads(line) for line in text.rpartition("\n")[0].splitlines()}
    return [records[step] for step in sorted(records)]


def tidy_nothing_undone(text):
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]


def tidy_last_line_always_dropped(text):
    records = []
    for line in text.splitlines()[:-1]:
        record = json.loads(line)
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def pairs_normal_quantile(spread, difference):
    return max(2, math.ceil((1.959964 * spread / difference) ** 2))


def first_pairs(half_width, difference):
    """The smallest n ≥ 2 for which `half_width(n)` is below the difference."""
    return next(n for n in itertools.count(2) if half_width(n) < difference)


def pairs_one_sided(spread, difference):
    return first_pairs(lambda n: stats.t.ppf(0.95, n - 1) * spread / n ** 0.5, difference)


def pairs_n_degrees(spread, difference):
    return first_pairs(lambda n: stats.t.ppf(0.975, n) * spread / n ** 0.5, difference)


def pairs_not_divided_by_the_root(spread, difference):
    return first_pairs(lambda n: stats.t.ppf(0.975, n - 1) * spread / n, difference)


def pairs_needed_right(spread, difference):
    return first_pairs(lambda n: stats.t.ppf(0.975, n - 1) * spread / n ** 0.5, difference)


def pairs_from_one(spread, difference):
    return 1 if spread < difference else pairs_needed_right(spread, difference)


def pairs_one_too_many(spread, difference):
    return pairs_needed_right(spread, difference) + 1


def parted_by_place(one, other):
    return next((a["step"] for a, b in zip(one, other) if a["loss"] != b["loss"]), None)


def parted_returns_the_place(one, other):
    losses = {record["step"]: record["loss"] for record in other}
    return next((place for place, record in enumerate(one) if losses.get(record["step"], record["loss"]) != record["loss"]), None)


def parted_nearly_equal(one, other):
    losses = {record["step"]: record["loss"] for record in other}
    return next((r["step"] for r in one if not math.isclose(losses.get(r["step"], r["loss"]), r["loss"])), None)


def parted_whole_records(one, other):
    records = {record["step"]: record for record in other}
    return next((record["step"] for record in one if records.get(record["step"], record) != record), None)


def parted_missing_counts(one, other):
    losses = {record["step"]: record["loss"] for record in other}
    return next((record["step"] for record in one if losses.get(record["step"]) != record["loss"]), None)


def parted_the_last(one, other):
    losses = {record["step"]: record["loss"] for record in other}
    return max((record["step"] for record in one if losses.get(record["step"], record["loss"]) != record["loss"]), default=None)
# 22_first_network: cross_entropy_gradient

def row_softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def gradient_not_averaged(logits, targets):
    return row_softmax(logits) - np.eye(logits.shape[1])[targets]


def gradient_averaged_over_the_vocabulary(logits, targets):
    return gradient_not_averaged(logits, targets) / logits.size


def gradient_uphill(logits, targets):
    return -gradient_not_averaged(logits, targets) / len(targets)


def gradient_along_the_wrong_axis(logits, targets):
    return (row_softmax(logits.T).T - np.eye(logits.shape[1])[targets]) / len(targets)


def gradient_overflows(logits, targets):
    e = np.exp(logits)
    return (e / e.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[targets]) / len(targets)


def gradient_of_the_target_only(logits, targets):
    return (row_softmax(logits) - 1) * np.eye(logits.shape[1])[targets] / len(targets)


def gradient_in_place(logits, targets):
    logits[:] = row_softmax(logits)
    logits[np.arange(len(targets)), targets] -= 1
    return logits / len(targets)


def gradient_one_maximum_for_the_batch(logits, targets):
    e = np.exp(logits - logits.max())
    return (e / e.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[targets]) / len(targets)


# 22_first_network: examples

def examples_last_has_no_target(tokens, context, nothing):
    padded = [nothing] * (context - 1) + list(tokens)
    return [padded[i:i + context] for i in range(len(tokens))], list(tokens)


def examples_predict_themselves(tokens, context, nothing):
    padded = [nothing] * (context - 1) + list(tokens)
    return [padded[i:i + context] for i in range(len(tokens) - 1)], list(tokens[:-1])


def examples_only_whole_contexts(tokens, context, nothing):
    inputs = [list(tokens[i:i + context]) for i in range(len(tokens) - context)]
    return inputs, list(tokens[context:])


def examples_filled_at_the_end(tokens, context, nothing):
    rows = [list(tokens[max(0, i + 1 - context):i + 1]) for i in range(len(tokens) - 1)]
    return [row + [nothing] * (context - len(row)) for row in rows], list(tokens[1:])


def examples_newest_first(tokens, context, nothing):
    padded = [nothing] * (context - 1) + list(tokens)
    return [padded[i:i + context][::-1] for i in range(len(tokens) - 1)], list(tokens[1:])


def examples_see_the_target(tokens, context, nothing):
    padded = [nothing] * (context - 2) + list(tokens)
    return [padded[i:i + context] for i in range(len(tokens) - 1)], list(tokens[1:])


def examples_filled_with_zero(tokens, context, nothing):
    padded = [0] * (context - 1) + list(tokens)
    return [padded[i:i + context] for i in range(len(tokens) - 1)], list(tokens[1:])


# 22_first_network: early_stopping

def stopping_never(losses, patience):
    return int(np.argmin(losses)), len(losses) - 1


def stopping_one_late(losses, patience):
    best = 0
    for last, loss in enumerate(losses):
        if loss < losses[best]:
            best = last
        elif last - best > patience:
            break
    return best, last


def stopping_counts_all_bad_ones(losses, patience):
    best, bad = 0, 0
    for last, loss in enumerate(losses):
        if loss < losses[best] or last == 0:
            best = last
        else:
            bad += 1
            if bad == patience:
                break
    return best, last


def stopping_compares_with_the_one_before(losses, patience):
    bad = 0
    for last in range(1, len(losses)):
        bad = bad + 1 if losses[last] >= losses[last - 1] else 0
        if bad == patience:
            break
    else:
        last = len(losses) - 1
    return int(np.argmin(losses[:last + 1])), last


def stopping_equal_is_better(losses, patience):
    best = 0
    for last, loss in enumerate(losses):
        if loss <= losses[best]:
            best = last
        elif last - best >= patience:
            break
    return best, last


def stopping_ignores_patience(losses, patience):
    return stopping_patiently(losses, 2)


def stopping_at_most_two(losses, patience):
    return stopping_patiently(losses, min(patience, 2))


def stopping_at_the_best(losses, patience):
    best, last = stopping_patiently(losses, patience)
    return best, best


def stopping_patiently(losses, patience):
    best = 0
    for last, loss in enumerate(losses):
        if loss < losses[best]:
            best = last
        elif last - best >= patience:
            break
    return best, last


def stopping_keeps_the_last(losses, patience):
    best, last = stopping_patiently(losses, patience)
    return last, last


# 23_initialisation: gain

def normal_numbers():
    return np.random.default_rng(1).standard_normal(1_000_000)


def gain_inverted(f):
    return np.sqrt(np.mean(f(normal_numbers()) ** 2))


def gain_squared(f):
    return 1 / np.mean(f(normal_numbers()) ** 2)


def gain_of_the_variance(f):
    return 1 / np.std(f(normal_numbers()))


def gain_of_the_mean_size(f):
    return 1 / np.mean(np.abs(f(normal_numbers())))


def gain_of_uniform_inputs(f):
    return 1 / np.sqrt(np.mean(f(np.random.default_rng(1).uniform(-1, 1, 1_000_000)) ** 2))


def gain_always_kaiming(f):
    return np.sqrt(2)


def gain_of_the_slope(f):
    return 1 / np.sqrt(np.mean(((f(normal_numbers() + 1e-4) - f(normal_numbers())) / 1e-4) ** 2))


# 23_initialisation: dead_share

def dead_zeros_counted(outputs):
    return np.mean(np.asarray(outputs) == 0)


def dead_now_and_then(outputs):
    return np.mean(np.any(np.asarray(outputs) == 0, axis=0))


def dead_places(outputs):
    return np.mean(np.all(np.asarray(outputs) == 0, axis=1))


def dead_by_the_sum(outputs):
    return np.mean(np.sum(outputs, axis=0) == 0)


def dead_almost(outputs):
    return np.mean(np.all(np.abs(outputs) < 1e-6, axis=0))


def dead_number(outputs):
    return np.sum(np.all(np.asarray(outputs) == 0, axis=0))


# 23_initialisation: expected_first_loss

def first_loss_in_bits(vocab_size, deviation):
    return np.log2(vocab_size) + deviation ** 2 / 2


def first_loss_without_the_logits(vocab_size, deviation):
    return np.log(vocab_size)


def first_loss_whole_square(vocab_size, deviation):
    return np.log(vocab_size) + deviation ** 2


def first_loss_better_than_chance(vocab_size, deviation):
    return np.log(vocab_size) - deviation ** 2 / 2


def first_loss_of_bytes(vocab_size, deviation):
    return np.log(256) + deviation ** 2 / 2


def first_loss_linear(vocab_size, deviation):
    return np.log(vocab_size) + deviation


def first_loss_half_the_deviation(vocab_size, deviation):
    return np.log(vocab_size) + deviation / 2


def nesterov_without_looking_ahead(theta, v, g, lr, mu):
    v = mu * v + g
    return theta - lr * v, v


def nesterov_with_the_old_velocity(theta, v, g, lr, mu):
    return theta - lr * (g + mu * v), mu * v + g


def nesterov_averaged(theta, v, g, lr, mu):
    v = mu * v + (1 - mu) * g
    return theta - lr * (g + mu * v), v


def nesterov_uphill(theta, v, g, lr, mu):
    v = mu * v + g
    return theta + lr * (g + mu * v), v


def nesterov_in_place(theta, v, g, lr, mu):
    v.mul_(mu).add_(g)
    return theta - lr * (g + mu * v), v


def nesterov_forgets_the_velocity(theta, v, g, lr, mu):
    return theta - lr * (g + mu * (mu * v + g)), v


def square_root_from_zero(warmup):
    return lambda step: min(step / warmup, math.sqrt(warmup / max(step, 1)))


def square_root_without_warmup(warmup):
    return lambda step: min(1, math.sqrt(warmup / (step + 1)))


def square_root_not_scaled(warmup):
    return lambda step: min((step + 1) / warmup, 1 / math.sqrt(step + 1))


def square_root_only_an_inverse(warmup):
    return lambda step: min((step + 1) / warmup, warmup / (step + 1))


def square_root_after_the_warmup_from_one(warmup):
    return lambda step: (step + 1) / warmup if step < warmup else 1 / math.sqrt(step + 1 - warmup)


def groups_all_decay(model, weight_decay):
    return [{"params": list(model.parameters()), "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]


def groups_embeddings_decay(model, weight_decay):
    return [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]


def groups_embeddings_forgotten(model, weight_decay):
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    rest = [p for p in model.parameters() if all(p is not other for other in embeddings)]
    return [{"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]


def groups_swapped(model, weight_decay):
    first, second = groups_right(model, weight_decay)
    return [second | {"weight_decay": weight_decay}, first | {"weight_decay": 0.0}]


def groups_right(model, weight_decay):
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": [p for p in model.parameters() if all(p is not other for other in decayed)], "weight_decay": 0.0}]


def groups_all_by_name(model, weight_decay):
    named = dict(model.named_parameters())
    return [{"params": [p for name, p in named.items() if name.endswith("weight")], "weight_decay": weight_decay},
            {"params": [p for name, p in named.items() if name.endswith("bias")], "weight_decay": 0.0}]


def groups_without_the_last_layer(model, weight_decay):
    first, second = groups_right(model, weight_decay)
    return [{"params": first["params"][:-1], "weight_decay": weight_decay}, {"params": second["params"] + first["params"][-1:], "weight_decay": 0.0}]


def groups_children_only(model, weight_decay):
    """Looks for embeddings at the top of the model alone."""
    embeddings = {id(module.weight) for module in model.children() if isinstance(module, torch.nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": [p for p in model.parameters() if all(p is not other for other in decayed)], "weight_decay": 0.0}]


def groups_first_is_the_embedding(model, weight_decay):
    first, *rest = model.parameters()
    return [{"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [first, *(p for p in rest if p.ndim < 2)], "weight_decay": 0.0}]


def groups_linear_only(model, weight_decay):
    decayed = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return [{"params": decayed, "weight_decay": weight_decay},
            {"params": [p for p in model.parameters() if all(p is not other for other in decayed)], "weight_decay": 0.0}]


def groups_with_some_twice(model, weight_decay):
    """Embeddings first, and then again with all that have fewer than two axes or are one."""
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    first = [p for p in model.parameters() if p.ndim > 1 and all(p is not other for other in embeddings)]
    second = embeddings + [p for p in model.parameters() if all(p is not other for other in first)]
    return [{"params": first, "weight_decay": weight_decay}, {"params": second, "weight_decay": 0.0}]


def groups_both_decay(model, weight_decay):
    return [group | {"weight_decay": weight_decay} for group in groups_right(model, weight_decay)]


# 32_lstm: forget_bias

def bias_wanted(k):
    return -math.log(2 ** (1 / k) - 1)


def bias_sign(k):
    return -bias_wanted(k)


def bias_the_gate(k):
    return 0.5 ** (1 / k)


def bias_logarithm_of_the_gate(k):
    return math.log(0.5 ** (1 / k))


def bias_of_half_life_by_rate(k):
    """As if the gate were 1 − 1/k."""
    return math.log(max(k - 1, 1e-9))


def bias_one_step_too_many(k):
    return bias_wanted(k + 1)


def bias_of_e(k):
    """1/e is left, not one half."""
    gate = math.exp(-1 / k)
    return math.log(gate / (1 - gate))


# 32_lstm: gru_step

def gru_variation(order="rzm", reset_first=False, update_swapped=False, reset_spares_bias=False, no_state_bias=False):
    def gru(x, h, W, U, b, d):
        a, s = x @ W.T + b, h @ U.T + (0 if no_state_bias else d)
        n = h.shape[1]
        places = {letter: slice(place * n, (place + 1) * n) for place, letter in enumerate(order)}
        r, z = (torch.sigmoid(a[:, places[letter]] + s[:, places[letter]]) for letter in "rz")
        rows = places["m"]
        if reset_first:
            inner = (r * h) @ U[rows].T + d[rows]
        elif reset_spares_bias:
            inner = r * (h @ U[rows].T) + d[rows]
        else:
            inner = r * s[:, rows]
        m = torch.tanh(a[:, rows] + inner)
        return z * m + (1 - z) * h if update_swapped else (1 - z) * m + z * h
    return gru


gru_reset_before_the_matrix = gru_variation(reset_first=True)
gru_update_swapped = gru_variation(update_swapped=True)
gru_gates_swapped = gru_variation(order="zrm")
gru_reset_spares_the_bias = gru_variation(reset_spares_bias=True)
gru_without_the_state_s_bias = gru_variation(no_state_bias=True)


# 32_lstm: peephole_step

def peephole_variation(output_sees="new", candidate_sees=False, order=(0, 1, 2), input_sees="old"):
    def peephole(x, h, c, W, U, b, p):
        i, f, g, o = (x @ W.T + h @ U.T + b).chunk(4, dim=1)
        p_i, p_f, p_o = (p[place] for place in order)
        f = torch.sigmoid(f + p_f * c)
        g = torch.tanh(g + p_i * c if candidate_sees else g)
        i = torch.sigmoid(i + p_i * (torch.tanh(c) if input_sees == "tanh" else c))
        new = f * c + i * g
        o = torch.sigmoid(o + p_o * {"new": new, "old": c, "h": h, "none": 0 * c}[output_sees])
        return o * torch.tanh(new), new
    return peephole


peephole_output_sees_the_old_cell = peephole_variation(output_sees="old")
peephole_output_sees_the_hidden_state = peephole_variation(output_sees="h")
peephole_output_sees_nothing = peephole_variation(output_sees="none")
peephole_candidate_sees_too = peephole_variation(candidate_sees=True)
peephole_rows_in_another_order = peephole_variation(order=(1, 0, 2))
peephole_through_tanh = peephole_variation(input_sees="tanh")


def peephole_returned_the_other_way(x, h, c, W, U, b, p):
    return peephole_variation()(x, h, c, W, U, b, p)[::-1]


WRONG = {
    "32_lstm: forget_bias": [bias_sign, bias_the_gate, bias_logarithm_of_the_gate, bias_of_half_life_by_rate, bias_one_step_too_many, bias_of_e],
    "32_lstm: gru_step": [gru_reset_before_the_matrix, gru_update_swapped, gru_gates_swapped, gru_reset_spares_the_bias, gru_without_the_state_s_bias],
    "32_lstm: peephole_step": [peephole_output_sees_the_old_cell, peephole_output_sees_the_hidden_state, peephole_output_sees_nothing,
                               peephole_candidate_sees_too, peephole_rows_in_another_order, peephole_through_tanh, peephole_returned_the_other_way],
    "10_corpus: turns_by_role": [turns_roles_left_on, turns_swapped, turns_cut_at_every_colon, turns_last_part_after_a_colon, turns_role_found_anywhere,
                                 turns_role_removed_everywhere, turns_lstrip, turns_empty_lines_kept, turns_in_pairs],
    "10_corpus: strangers": [strangers_first_speaker_only, strangers_second_speaker_only, strangers_both_must_be_known, strangers_by_pair,
                             strangers_known_by_first_speaker, strangers_known_by_second_speaker, strangers_without_repeats, strangers_the_familiar,
                             strangers_against_each_training_conversation],
    "11_surprise: prefix_code_exists": [kraft_strictly_below_one, kraft_exactly_one, kraft_in_floats, kraft_in_floats_with_a_tolerance,
                                        kraft_enough_strings_of_the_longest, kraft_enough_strings_of_each_length, kraft_natural_exponential, kraft_the_sum],
    "11_surprise: redundancy": [redundancy_entropy_over_maximum, redundancy_natural_logarithm_of_k, redundancy_only_what_occurs, redundancy_in_bits,
                                redundancy_not_divided, redundancy_over_k, redundancy_nan_at_zero, redundancy_epsilon_in_the_logarithm],
    "12_prediction: compare": [compare_in_nats, compare_per_token, compare_tokens_and_bytes_swapped, compare_perplexity_of_bits_in_e,
                               compare_two_to_the_nats, compare_perplexity_divided],
    "12_prediction: discounted": [discounted_from_unseen_too, discounted_once, discounted_nothing_given_back, discounted_normalised_afterwards,
                                  discounted_only_to_the_unseen, discounted_without_a_zero_case],
    "12_prediction: stupid_backoff": [backoff_without_the_factor, backoff_drops_the_last_of_the_context, backoff_only_once, backoff_interpolates,
                                      backoff_free_past_unseen_contexts],
    "14_compression: self_delimiting": [delimiting_zeros_may_follow, delimiting_open_above, delimiting_zeros_in_front_lost, delimiting_cut_midpoint,
                                        delimiting_rounded_down, delimiting_at_least_one_digit],
    "14_compression: waste": [waste_cross_entropy, waste_in_nats, waste_other_way_round, waste_sizes_not_divided, waste_nan_at_zero, waste_unweighted,
                              waste_negative],
    "13_guessing: one_guess_bound": [one_guess_natural_logarithms, one_guess_misses_over_all_symbols, one_guess_only_hit_or_miss,
                                     one_guess_hit_or_miss_forgotten, one_guess_hits_for_misses, one_guess_misses_not_weighted,
                                     one_guess_nan_at_the_ends, one_guess_share_of_the_maximum],
    "13_guessing: pairs_by_hand": [pairs_turns_joined, pairs_up_to_k, pairs_k_between, pairs_last_left_out, pairs_without_order, pairs_each_once,
                                   pairs_of_the_last_turn, pairs_wrapped_around, pairs_second_first],
    "25_experiments: tidy": [tidy_keeps_the_torn_line, tidy_first_counts, tidy_later_steps_stay, tidy_nothing_undone, tidy_last_line_always_dropped],
    "25_experiments: pairs_needed": [pairs_normal_quantile, pairs_one_sided, pairs_n_degrees, pairs_not_divided_by_the_root, pairs_from_one, pairs_one_too_many],
    "25_experiments: parted": [parted_by_place, parted_returns_the_place, parted_nearly_equal, parted_whole_records, parted_missing_counts, parted_the_last],
    "90_honest_numbers: robust_spread": [spread_maximum, spread_mean, spread_standard_deviation, spread_with_signs, spread_sign_taken_last,
                                         spread_first_run_counted, spread_middle_without_sorting, spread_upper_middle, spread_lower_middle,
                                         spread_around_the_median, spread_of_neighbours],
    "21_gradients: sigmoid": [sigmoid_without_parents, sigmoid_derivative_of_the_input, sigmoid_derivative_p, sigmoid_derivative_one_minus_p,
                              sigmoid_derivative_of_tanh, sigmoid_of_the_negative, sigmoid_of_several_nodes],
    "21_gradients: lookup_backward": [lookup_assigned, lookup_added_once, lookup_looked_up_again, lookup_in_the_order_of_the_text, lookup_mean,
                                      lookup_columns_summed, lookup_of_three_tokens, lookup_of_two_columns, lookup_always_two_wide],
    "21_gradients: complex_step": [complex_step_real_part, complex_step_not_divided, complex_step_subtracted, complex_step_real_direction,
                                   complex_step_central, complex_step_too_long, complex_step_absolute],
    "91_mathematics: log_sum_exp": [log_sum_exp_overflowing, log_sum_exp_one_maximum_for_all, log_sum_exp_maximum_not_added_back,
                                    log_sum_exp_over_everything, log_sum_exp_axis_kept, log_sum_exp_over_the_first_axis,
                                    log_sum_exp_the_maximum_itself, log_sum_exp_minimum_subtracted, log_sum_exp_in_bits,
                                    log_sum_exp_last_subtracted, log_sum_exp_first_subtracted, log_sum_exp_transposed, log_sum_exp_over_axis_one],
    "91_mathematics: posterior": [posterior_hit_rate, posterior_once, posterior_without_prior, posterior_alarm_of_all, posterior_alarm_as_misses,
                                  posterior_joint, posterior_evidence_times_the_number],
    "91_mathematics: squared_distances": [distances_with_the_root, distances_transposed, distances_summed_over_the_wrong_axis, distances_dot_products,
                                          distances_without_the_cross_term, distances_cross_term_once, distances_of_absolute_values, distances_mean],
    "92_pytorch: broadcast": [broadcast_from_the_left, broadcast_always_the_larger, broadcast_larger_where_it_fits, broadcast_only_common_axes,
                              broadcast_only_ones, broadcast_first_wins, broadcast_as_a_list],
    "92_pytorch: standardise": [standardise_columns, standardise_without_keepdim, standardise_all_at_once, standardise_over_one_less,
                                standardise_only_centred, standardise_by_the_variance, standardise_in_place, standardise_mean_squares_not_centred],
    "26_silent_bugs: mended_update": [update_as_found, update_mean_of_means, update_sum, update_not_zeroed, update_step_each, update_mode_left,
                                      update_returns_a_tensor, update_of_nothing, update_returns_the_last, update_all_at_once,
                                      update_mode_after_the_step, update_loss_after_the_step, update_loss_evaluated_after_the_step],
    "26_silent_bugs: mended_evaluate": [evaluate_as_found, evaluate_mean_of_means, evaluate_by_rows, evaluate_by_places, evaluate_with_dropout,
                                        evaluate_mode_left, evaluate_always_to_training, evaluate_with_a_graph,
                                        evaluate_by_what_is_not_zero, evaluate_nothing],
    "26_silent_bugs: mended_batches": [batches_as_found, batches_one_order, batches_seed_plus_epoch, batches_seed_forgotten, batches_not_shuffled,
                                       batches_shuffled_anew_on_resume, batches_with_replacement, batches_unseeded, batches_from_the_start,
                                       batches_by_the_global_torch, batches_by_the_global_random, batches_alternating, batches_with_the_remainder],
    "26_silent_bugs: unread": [unread_all_at_once, unread_any_place, unread_the_next_place, unread_the_share_read, unread_with_dropout,
                               unread_without_noise],
    "22_first_network: cross_entropy_gradient": [gradient_not_averaged, gradient_averaged_over_the_vocabulary, gradient_uphill,
                                                 gradient_along_the_wrong_axis, gradient_overflows, gradient_of_the_target_only, gradient_in_place,
                                                 gradient_one_maximum_for_the_batch],
    "22_first_network: examples": [examples_last_has_no_target, examples_predict_themselves, examples_only_whole_contexts, examples_filled_at_the_end,
                                   examples_newest_first, examples_see_the_target, examples_filled_with_zero],
    "22_first_network: early_stopping": [stopping_never, stopping_one_late, stopping_counts_all_bad_ones, stopping_compares_with_the_one_before,
                                         stopping_equal_is_better, stopping_at_the_best, stopping_keeps_the_last, stopping_ignores_patience,
                                         stopping_at_most_two],
    "23_initialisation: gain": [gain_inverted, gain_squared, gain_of_the_variance, gain_of_the_mean_size, gain_of_uniform_inputs, gain_always_kaiming,
                                gain_of_the_slope],
    "23_initialisation: dead_share": [dead_zeros_counted, dead_now_and_then, dead_places, dead_by_the_sum, dead_almost, dead_number],
    "23_initialisation: expected_first_loss": [first_loss_in_bits, first_loss_without_the_logits, first_loss_whole_square, first_loss_better_than_chance,
                                               first_loss_of_bytes, first_loss_linear, first_loss_half_the_deviation],
    "24_steps: nesterov": [nesterov_without_looking_ahead, nesterov_with_the_old_velocity, nesterov_averaged, nesterov_uphill, nesterov_in_place,
                           nesterov_forgets_the_velocity],
    "24_steps: inverse_square_root": [square_root_from_zero, square_root_without_warmup, square_root_not_scaled, square_root_only_an_inverse,
                                      square_root_after_the_warmup_from_one],
    "24_steps: decay_groups": [groups_all_decay, groups_embeddings_decay, groups_embeddings_forgotten, groups_swapped, groups_all_by_name,
                               groups_without_the_last_layer, groups_both_decay, groups_children_only, groups_first_is_the_embedding,
                               groups_linear_only, groups_with_some_twice],
}


# 31_recurrence

def recurrent_loss(carried, batch, start=lambda state, fresh: state.masked_fill(fresh[None, :, None], 0.0), end=lambda after, before: after.detach()):
    """The right loss, but for the state from which it begins, or for the one that it stores."""
    rows, fresh = batch
    before = start(carried.state, fresh)
    x, after = carried.model.features(rows[:, :-1], before)
    carried.state = end(after, before)
    return output_loss(x, carried.model.output, rows[:, 1:])


def mended_loss_as_found(carried, batch):
    rows, fresh = batch
    x, state = carried.model.features(rows, carried.state.masked_fill(fresh[None, :, None], 0.0))
    carried.state = state.detach()
    return output_loss(x[:, :-1], carried.model.output, rows[:, 1:])


def mended_loss_never_fresh(carried, batch):
    return recurrent_loss(carried, batch, start=lambda state, fresh: state)


def mended_loss_always_fresh(carried, batch):
    return recurrent_loss(carried, batch, start=lambda state, fresh: torch.zeros_like(state))


def mended_loss_fresh_the_other_way_round(carried, batch):
    return recurrent_loss(carried, batch, start=lambda state, fresh: state.masked_fill(~fresh[None, :, None], 0.0))


def mended_loss_all_fresh_if_one_is(carried, batch):
    return recurrent_loss(carried, batch, start=lambda state, fresh: torch.zeros_like(state) if fresh.any() else state)


def mended_loss_fresh_if_all_are(carried, batch):
    return recurrent_loss(carried, batch, start=lambda state, fresh: torch.zeros_like(state) if fresh.all() else state)


def mended_loss_not_detached(carried, batch):
    return recurrent_loss(carried, batch, end=lambda after, before: after)


def mended_loss_state_not_stored(carried, batch):
    return recurrent_loss(carried, batch, end=lambda after, before: before)


def mended_loss_state_of_the_next_row(carried, batch):
    return recurrent_loss(carried, batch, end=lambda after, before: after.detach().roll(1, dims=1))


def mended_loss_predicts_what_it_reads(carried, batch):
    rows, fresh = batch
    x, state = carried.model.features(rows[:, :-1], carried.state.masked_fill(fresh[None, :, None], 0.0))
    carried.state = state.detach()
    return output_loss(x, carried.model.output, rows[:, :-1])


def mended_loss_last_target_dropped(carried, batch):
    rows, fresh = batch
    x, state = carried.model.features(rows[:, :-1], carried.state.masked_fill(fresh[None, :, None], 0.0))
    carried.state = state.detach()
    return output_loss(x[:, :-1], carried.model.output, rows[:, 1:-1])


def mended_loss_last_input_unread(carried, batch):
    rows, fresh = batch
    x, state = carried.model.features(rows[:, :-2], carried.state.masked_fill(fresh[None, :, None], 0.0))
    carried.state = state.detach()
    return output_loss(x, carried.model.output, rows[:, 1:-1])


def mended_loss_features_detached(carried, batch):
    return recurrent_loss(carried, batch).detach()


def mended_loss_sum(carried, batch):
    return recurrent_loss(carried, batch) * batch[0][:, 1:].numel()


def with_radius_by_the_singular_value(U, radius):
    return U * (radius / np.linalg.norm(U, 2))


def with_radius_by_the_norm(U, radius):
    return U * (radius / np.linalg.norm(U))


def with_radius_real_parts(U, radius):
    with np.errstate(all="ignore"):
        return U * (radius / np.abs(np.linalg.eigvals(U).real).max())


def with_radius_largest_not_absolute(U, radius):
    with np.errstate(all="ignore"):
        return U * (radius / np.linalg.eigvals(U).real.max())


def with_radius_complex(U, radius):
    return U * (radius / np.linalg.eigvals(U)[0])


def with_radius_in_place(U, radius):
    U *= radius / np.abs(np.linalg.eigvals(U)).max()
    return U


def with_radius_only_shrunk(U, radius):
    return U * min(1, radius / np.abs(np.linalg.eigvals(U)).max())


def with_radius_only_stretched(U, radius):
    return U * max(1, radius / np.abs(np.linalg.eigvals(U)).max())


def with_radius_not_divided(U, radius):
    return U * radius


def with_radius_of_the_smallest(U, radius):
    return U * (radius / np.abs(np.linalg.eigvals(U)).min())


def with_radius_orthogonal(U, radius):
    return np.linalg.qr(U)[0] * radius


def last_states_last_column(h, lengths):
    return h[:, -1]


def last_states_longest_row(h, lengths):
    return h[:, max(int(lengths.max()) - 1, 0)]


def last_states_empty_ones_wrap_around(h, lengths):
    return h[torch.arange(len(h)), lengths - 1]


def last_states_empty_ones_are_the_first(h, lengths):
    return h[torch.arange(len(h)), (lengths - 1).clamp(min=0)]


def last_states_one_too_late(h, lengths):
    return h[torch.arange(len(h)), lengths.clamp(max=h.shape[1] - 1)] * (lengths > 0)[:, None]


def last_states_all_pairs(h, lengths):
    return h[:, lengths - 1]


def last_states_all_zero_if_one_is_empty(h, lengths):
    return h[torch.arange(len(h)), lengths - 1] * bool((lengths > 0).all())


def last_states_detached(h, lengths):
    return h.detach()[torch.arange(len(h)), lengths - 1] * (lengths > 0)[:, None]


def last_states_mean(h, lengths):
    read = torch.arange(h.shape[1]) < lengths[:, None]
    return (h * read[..., None]).sum(1) / lengths.clamp(min=1)[:, None]


def last_states_in_order_of_length(h, lengths):
    found = h[torch.arange(len(h)), lengths - 1] * (lengths > 0)[:, None]
    return found[lengths.argsort(descending=True).flip(0)]


WRONG |= {
    "31_recurrence: mended_loss": [mended_loss_as_found, mended_loss_never_fresh, mended_loss_always_fresh, mended_loss_fresh_the_other_way_round,
                                   mended_loss_all_fresh_if_one_is, mended_loss_fresh_if_all_are, mended_loss_not_detached, mended_loss_state_not_stored,
                                   mended_loss_state_of_the_next_row, mended_loss_predicts_what_it_reads, mended_loss_last_target_dropped,
                                   mended_loss_last_input_unread, mended_loss_features_detached, mended_loss_sum],
    "31_recurrence: with_radius": [with_radius_by_the_singular_value, with_radius_by_the_norm, with_radius_real_parts, with_radius_largest_not_absolute,
                                   with_radius_complex, with_radius_in_place, with_radius_only_shrunk, with_radius_only_stretched, with_radius_not_divided,
                                   with_radius_of_the_smallest, with_radius_orthogonal],
    "31_recurrence: last_states": [last_states_last_column, last_states_longest_row, last_states_empty_ones_wrap_around,
                                   last_states_empty_ones_are_the_first, last_states_one_too_late, last_states_all_pairs,
                                   last_states_all_zero_if_one_is_empty, last_states_detached, last_states_mean, last_states_in_order_of_length],
}


# 33_inside_lstm: tokens_until_half

def half_variation(f, below=lambda left: left < 0.5, first=1, combine=lambda left, gate: left * gate, otherwise=np.inf):
    """The right answer, but for one part."""
    left = 1.0
    for k, gate in enumerate(f, start=first):
        left = combine(left, gate)
        if below(left):
            return k
    return otherwise


def half_counted_from_zero(f):
    return half_variation(f, first=0)


def half_not_above(f):
    return half_variation(f, below=lambda left: left <= 0.5)


def half_at_the_end_if_never(f):
    return half_variation(f, otherwise=len(f))


def half_none_if_never(f):
    return half_variation(f, otherwise=None)


def half_gates_subtracted(f):
    return half_variation(f, combine=lambda left, gate: left - (1 - gate))


def half_of_a_single_gate(f):
    return half_variation(f, combine=lambda left, gate: gate)


def half_from_the_mean_gate(f):
    return math.floor(math.log(0.5) / math.log(statistics.mean(f))) + 1 if f and statistics.mean(f) < 1 else np.inf


def half_from_the_mean_logarithm(f):
    mean = sum(math.log(gate) for gate in f) / len(f) if f else 0
    return math.floor(math.log(0.5) / mean) + 1 if mean < 0 else np.inf


# 33_inside_lstm: holm

def holm_variation(p, factors=lambda m: np.arange(m, 0, -1), rising=True, capped=True, given=True):
    """The right answer, but for one part."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    corrected = p[order] * factors(len(p))
    corrected = np.maximum.accumulate(corrected) if rising else corrected
    corrected = np.minimum(corrected, 1) if capped else corrected
    return corrected[np.argsort(order)] if given else corrected


def holm_bonferroni(p):
    return holm_variation(p, factors=lambda m: m)


def holm_factors_rising(p):
    return holm_variation(p, factors=lambda m: np.arange(1, m + 1))


def holm_false_discovery(p):
    return holm_variation(p, factors=lambda m: m / np.arange(1, m + 1))


def holm_one_factor_less(p):
    return holm_variation(p, factors=lambda m: np.maximum(np.arange(m - 1, -1, -1), 1))


def holm_may_fall(p):
    return holm_variation(p, rising=False)


def holm_above_one(p):
    return holm_variation(p, capped=False)


def holm_sorted(p):
    return holm_variation(p, given=False)


def holm_sorts_what_it_is_given(p):
    if isinstance(p, np.ndarray):
        answer = holm_variation(p)
        p.sort()
        return answer
    return holm_variation(p)


def holm_put_back_by_the_order(p):
    """The usual slip: `corrected[order]` is not the way back, though with two values it is."""
    order = np.argsort(p)
    return holm_variation(p, given=False)[order]


def holm_uncorrected(p):
    return np.asarray(p, float)


# 33_inside_lstm: inside_brackets

def brackets_variation(pieces, state=lambda depth: float(depth > 0), counted=lambda piece: not set(piece) & set("()"), fits=lambda depths: min(depths) >= 0,
                       closed=True, none=True):
    """The right answer, but for one part. `depths` are those after each character."""
    depths = [0]
    values = []
    for piece in pieces:
        for letter in piece:
            depths.append(depths[-1] + (letter == "(") - (letter == ")"))
        values.append(state(depths[-1]) if counted(piece) else np.nan)
    brackets = bool(set("".join(pieces)) & set("()"))
    good = (brackets or not none) and fits(depths) and (depths[-1] == 0 or not closed)
    return np.array(values) if good else np.full(len(pieces), np.nan)


def brackets_by_parity(pieces):
    """As for quotation marks: every bracket, of either kind, switches."""
    marks = np.array([piece.count("(") + piece.count(")") for piece in pieces])
    if marks.sum() == 0 or marks.sum() % 2:
        return np.full(len(pieces), np.nan)
    return np.where(marks > 0, np.nan, np.cumsum(marks) % 2)


def brackets_depth(pieces):
    return brackets_variation(pieces, state=float)


def brackets_only_the_outermost(pieces):
    return brackets_variation(pieces, state=lambda depth: float(depth == 1))


def brackets_marks_counted(pieces):
    return brackets_variation(pieces, counted=lambda piece: True)


def brackets_opening_ones_not_counted(pieces):
    return brackets_variation(pieces, counted=lambda piece: "(" not in piece)


def brackets_wrong_order_let_through(pieces):
    return brackets_variation(pieces, fits=lambda depths: True)


def brackets_left_open_let_through(pieces):
    return brackets_variation(pieces, closed=False)


def brackets_zeros_without_any(pieces):
    return brackets_variation(pieces, none=False)


def brackets_one_in_a_token(pieces):
    """Only whether there is one in a token, not how many."""
    return brackets_variation([piece.replace("((", "(") for piece in pieces])


def brackets_counted_by_token(pieces):
    """The depth is looked at after each token only."""
    depths = np.cumsum([piece.count("(") - piece.count(")") for piece in pieces])
    marked = np.array([bool(set(piece) & set("()")) for piece in pieces])
    if not marked.any() or depths.min() < 0 or depths[-1] != 0:
        return np.full(len(pieces), np.nan)
    return np.where(marked, np.nan, depths > 0)


def brackets_shifted(pieces):
    """The state before each token, not after it."""
    found = brackets_variation(pieces, counted=lambda piece: True)
    before = np.append(0, found[:-1])
    return np.where([bool(set(piece) & set("()")) for piece in pieces], np.nan, before)


WRONG |= {
    "33_inside_lstm: tokens_until_half": [half_counted_from_zero, half_not_above, half_at_the_end_if_never, half_none_if_never, half_gates_subtracted,
                                          half_of_a_single_gate, half_from_the_mean_gate, half_from_the_mean_logarithm],
    "33_inside_lstm: holm": [holm_bonferroni, holm_factors_rising, holm_false_discovery, holm_one_factor_less, holm_may_fall, holm_above_one, holm_sorted,
                             holm_sorts_what_it_is_given, holm_put_back_by_the_order, holm_uncorrected],
    "33_inside_lstm: inside_brackets": [brackets_by_parity, brackets_depth, brackets_only_the_outermost, brackets_marks_counted,
                                        brackets_opening_ones_not_counted, brackets_wrong_order_let_through, brackets_left_open_let_through,
                                        brackets_zeros_without_any, brackets_one_in_a_token, brackets_counted_by_token, brackets_shifted],
}


# 41_tokens: mended_joined

def joined_as_found(tokens, pair, new):
    found = list(tokens)
    for place in reversed(range(len(found) - 1)):
        if (found[place], found[place + 1]) == pair:
            found[place:place + 2] = [new]
    return found


def joined_in_place(tokens, pair, new):
    place = 0
    while place < len(tokens) - 1:
        if (tokens[place], tokens[place + 1]) == pair:
            tokens[place:place + 2] = [new]
        place += 1
    return tokens


def joined_overlapping(tokens, pair, new):
    """Each place is looked at, whether or not its token was used already."""
    pairs = list(zip(tokens, tokens[1:]))
    return [new if each == pair else each[0] for each in pairs] + tokens[-1:]


def joined_without_the_last(tokens, pair, new):
    found, place = [], 0
    while place < len(tokens) - 1:
        both = (tokens[place], tokens[place + 1]) == pair
        found.append(new if both else tokens[place])
        place += 1 + both
    return found


def joined_once(tokens, pair, new):
    for place in range(len(tokens) - 1):
        if (tokens[place], tokens[place + 1]) == pair:
            return tokens[:place] + [new] + tokens[place + 2:]
    return list(tokens)


def joined_in_either_order(tokens, pair, new):
    found, place = list(tokens), 0
    while place < len(found) - 1:
        if {found[place], found[place + 1]} == set(pair):
            found[place:place + 2] = [new]
        place += 1
    return found


def joined_looking_again(tokens, pair, new):
    found, place = list(tokens), 0
    while place < len(found) - 1:
        if (found[place], found[place + 1]) == pair:
            found[place:place + 2] = [new]
        else:
            place += 1
    return found


# 41_tokens: in_characters

def characters_each_by_itself(pieces):
    return [piece.decode("utf-8", "replace") for piece in pieces] + [""]


def characters_without_halves(pieces):
    return [piece.decode("utf-8", "ignore") for piece in pieces] + [""]


def characters_all_at_the_end(pieces):
    return len(pieces) * [""] + [b"".join(pieces).decode("utf-8", "replace")]


def characters_wait_for_a_whole(pieces):
    """Nothing is shown as long as something of it is missing."""
    shown, held = [], b""
    for piece in pieces:
        held += piece
        try:
            shown.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown + [held.decode("utf-8", "replace")]


def characters_without_the_end(pieces):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in pieces]


def characters_half_is_dropped(pieces):
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in pieces] + [""]


def characters_bad_bytes_are_dropped(pieces):
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    return [decoder.decode(piece) for piece in pieces] + [decoder.decode(b"", final=True)]


# 41_tokens: longest_first

def longest_bytes_alone(word, token_of):
    return [token_of[bytes([byte])] for byte in word]


def longest_grown(word, token_of):
    """A piece grows as long as it is one: of "hello" that is "he", since "hel" is none."""
    tokens, start = [], 0
    while start < len(word):
        end = start + 1
        while end < len(word) and word[start:end + 1] in token_of:
            end += 1
        tokens.append(token_of[word[start:end]])
        start = end
    return tokens


def longest_from_the_right(word, token_of):
    tokens, end = [], len(word)
    while end > 0:
        start = next(start for start in range(end) if word[start:end] in token_of)
        tokens.append(token_of[word[start:end]])
        end = start
    return tokens[::-1]


def longest_anywhere(word, token_of):
    """The longest of the whole word first, then what is left and right of it."""
    if not word:
        return []
    start, end = max(((start, end) for start in range(len(word)) for end in range(start + 1, len(word) + 1) if word[start:end] in token_of),
                     key=lambda ends: ends[1] - ends[0])
    return longest_anywhere(word[:start], token_of) + [token_of[word[start:end]]] + longest_anywhere(word[end:], token_of)


def longest_whole_or_bytes(word, token_of):
    return [token_of[word]] if word in token_of else longest_bytes_alone(word, token_of)


def longest_pieces_not_tokens(word, token_of):
    pieces, start = [], 0
    while start < len(word):
        end = next(end for end in range(len(word), start, -1) if word[start:end] in token_of)
        pieces.append(word[start:end])
        start = end
    return pieces


# 41_tokens: ways

def ways_of_two_to_the_gaps(word, pieces):
    return 2 ** max(len(word) - 1, 0)


def ways_nothing_has_none(word, pieces):
    return (word in pieces) + sum(ways_nothing_has_none(word[end:], pieces) for end in range(max(1, len(word) - 20), len(word)) if word[:end] in pieces)


def ways_of_sets(word, pieces):
    """a|a|aa, a|aa|a and aa|a|a are the same pieces."""
    found = {0: {()}}
    for end in range(1, min(len(word), 12) + 1):
        found[end] = {tuple(sorted((*way, word[start:end]))) for start in range(end) if word[start:end] in pieces for way in found[start]}
    return len(found[min(len(word), 12)])


def ways_pieces_inside(word, pieces):
    return sum(word[start:end] in pieces for start in range(len(word)) for end in range(start + 1, len(word) + 1))


def ways_at_least_one(word, pieces):
    count = [1]
    for end in range(1, len(word) + 1):
        count.append(max(1, sum(count[start] for start in range(end) if word[start:end] in pieces)))
    return count[-1]


def ways_of_at_most_two(word, pieces):
    count = [1]
    for end in range(1, len(word) + 1):
        count.append(sum(count[start] for start in range(max(0, end - 2), end) if word[start:end] in pieces))
    return count[-1]


WRONG |= {
    "41_tokens: mended_joined": [joined_as_found, joined_in_place, joined_overlapping, joined_without_the_last, joined_once, joined_in_either_order,
                                 joined_looking_again],
    "41_tokens: in_characters": [characters_each_by_itself, characters_without_halves, characters_all_at_the_end, characters_wait_for_a_whole,
                                 characters_without_the_end, characters_half_is_dropped, characters_bad_bytes_are_dropped],
    "41_tokens: longest_first": [longest_bytes_alone, longest_grown, longest_from_the_right, longest_anywhere, longest_whole_or_bytes,
                                 longest_pieces_not_tokens],
    "41_tokens: ways": [ways_of_two_to_the_gaps, ways_nothing_has_none, ways_of_sets, ways_pieces_inside, ways_at_least_one, ways_of_at_most_two],
}


# 42_attention: packed_mask

def packed(tokens, end, before=torch.Tensor.tril):
    """The mask of rows, each place of which belongs to a conversation; `before` leaves of it what may be seen."""
    ended = tokens == end
    number = ended.cumsum(dim=1) - ended.long()
    return before(number[:, :, None] == number[:, None, :])[:, None]


def packed_end_begins_the_next(tokens, end):
    number = (tokens == end).cumsum(dim=1)
    return (number[:, :, None] == number[:, None, :]).tril()[:, None]


def packed_sees_the_future(tokens, end):
    return packed(tokens, end, before=lambda mask: mask)


def packed_looks_back_into_all(tokens, end):
    return causal_mask(tokens.shape[1]).expand(len(tokens), 1, -1, -1)


def packed_not_itself(tokens, end):
    return packed(tokens, end, before=lambda mask: mask.tril(-1))


def packed_counts_across_rows(tokens, end):
    ended = (tokens == end).flatten()
    number = (ended.cumsum(dim=0) // 2 - ended.long()).view(tokens.shape)
    return (number[:, :, None] == number[:, None, :]).tril()[:, None]


def packed_end_is_zero(tokens, end):
    return packed(tokens, 0)


def packed_without_the_axis_of_heads(tokens, end):
    return packed(tokens, end)[:, 0]


def packed_as_numbers(tokens, end):
    return packed(tokens, end).float()


# 42_attention: grouped_attend

def grouped(q, k, v, turned=lambda q, k, v: (q, k, v), mask=True):
    """The right answer, but for what `turned` makes of queries, keys and values."""
    if q.shape[1] % k.shape[1]:
        raise ValueError("in equal groups")
    q, k, v = turned(q, k, v)
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], dim=1) for part in (k, v))
    return attend(q, k, v, causal_mask(q.shape[2]) if mask else None)


def grouped_in_turn(q, k, v):
    """The first query goes to the first head, the second to the second, and so on round."""
    return grouped(q, k, v, lambda q, *both: (q, *(part.repeat(1, q.shape[1] // part.shape[1], 1, 1) for part in both)))


def grouped_without_the_mask(q, k, v):
    return grouped(q, k, v, mask=False)


def grouped_with_any_number(q, k, v):
    k, v = (part[:, torch.arange(q.shape[1]) * part.shape[1] // q.shape[1]] for part in (k, v))
    return grouped(q, k, v)


def grouped_all_to_the_first(q, k, v):
    return grouped(q, k, v, lambda q, k, v: (q, k[:, :1], v[:, :1]))


def grouped_the_mean_of_the_keys(q, k, v):
    return grouped(q, k, v, lambda q, *both: (q, *(part.mean(dim=1, keepdim=True) for part in both)))


def grouped_not_divided(q, k, v):
    return grouped(q, k, v, lambda q, k, v: (q * math.sqrt(q.shape[-1]), k, v))


# 42_attention: window_mask

def window_variation(mask):
    """mask(T, window), which refuses a window of nothing, as it should."""
    def windowed(T, window):
        if window < 1:
            raise ValueError("at least 1")
        return mask(T, window)
    return windowed


def near(T, window):
    return ~causal_mask(T).tril(-window)


def window_of_none(T, window):
    return causal_mask(T) & near(T, window)


window_one_more = window_variation(lambda T, window: window_of_none(T, window + 1))
window_both_sides = window_variation(lambda T, window: near(T, window) & near(T, window).T)
window_without_itself = window_variation(lambda T, window: causal_mask(T).tril(-1) & near(T, window + 1))
window_in_blocks = window_variation(lambda T, window: causal_mask(T) & (torch.arange(T)[:, None] // window == torch.arange(T) // window))
window_as_numbers = window_variation(lambda T, window: window_of_none(T, window).float())


# 42_attention: shift_matrix

def shift_blocks(k, n_embd, block):
    """A matrix of blocks made from cos and sin of each angle."""
    turned = angles(1, n_embd, begin=k)[0]
    return torch.block_diag(*(torch.tensor(block(angle.cos().item(), angle.sin().item())) for angle in turned))


def shift_the_other_way(k, n_embd):
    return shift_blocks(k, n_embd, lambda cos, sin: [[cos, -sin], [sin, cos]])


def shift_as_if_cosine_came_first(k, n_embd):
    return shift_blocks(-k, n_embd, lambda cos, sin: [[cos, sin], [-sin, cos]])


def shift_reflected(k, n_embd):
    return shift_blocks(k, n_embd, lambda cos, sin: [[cos, sin], [sin, -cos]])


def shift_by_halves(k, n_embd):
    """The sines in the first half, the cosines in the second."""
    turned = angles(1, n_embd, begin=k)[0]
    cos, sin = turned.cos().diag(), turned.sin().diag()
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


def shift_all_by_one_angle(k, n_embd):
    cos, sin = math.cos(k), math.sin(k)
    return torch.block_diag(*(torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) for _ in range(n_embd // 2)))


def shift_from_place_0(k, n_embd):
    """Right at place 0 alone: the matrix that takes one vector to another."""
    p = sinusoids(abs(k) + 1, n_embd).double()
    return torch.outer(p[-1], p[0]) / (p[0] @ p[0])


WRONG |= {
    "42_attention: packed_mask": [packed_end_begins_the_next, packed_sees_the_future, packed_looks_back_into_all, packed_not_itself, packed_counts_across_rows,
                                  packed_end_is_zero, packed_without_the_axis_of_heads, packed_as_numbers],
    "42_attention: grouped_attend": [grouped_in_turn, grouped_without_the_mask, grouped_with_any_number, grouped_all_to_the_first, grouped_the_mean_of_the_keys,
                                     grouped_not_divided],
    "42_attention: window_mask": [window_one_more, window_both_sides, window_without_itself, window_of_none, window_in_blocks, window_as_numbers],
    "42_attention: shift_matrix": [shift_the_other_way, shift_as_if_cosine_came_first, shift_reflected, shift_by_halves, shift_all_by_one_angle, shift_from_place_0],
}


# 43_gpt: gpt2_parameters

def gpt2_count(n_layer, n_embd, V=50_257, P=1_024, per_layer=lambda n: 12 * n ** 2 + 13 * n, end=2):
    return (V + P) * n_embd + n_layer * per_layer(n_embd) + end * n_embd


def gpt2_without_the_last_norm(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, end=0)


def gpt2_last_norm_without_its_shift(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, end=1)


def gpt2_without_biases(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, per_layer=lambda n: 12 * n ** 2 + 4 * n)


def gpt2_with_the_tables_of_gpt1(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, V=40_478, P=512)


def gpt2_untied(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, V=2 * 50_257)


def gpt2_without_positions(n_layer, n_embd):
    return gpt2_count(n_layer, n_embd, P=0)


def gpt2_width_of_the_smallest(n_layer, n_embd):
    return gpt2_count(n_layer, 768)


# 43_gpt: reading

def reading_variation(end=lambda losses: losses[-max(len(losses) // 10, 1):].mean(), order=("loud", "diverged", "leak", "deaf"), lowest=np.nanmin,
                      tolerance=0.5, deaf=lambda end, unigram: end > unigram - 0.1):
    def verdict(losses, V, unigram):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            last = end(losses)
            holds = dict(loud=losses[0] > math.log(V) + tolerance, diverged=not last <= lowest(losses) + 0.5, leak=last < unigram / 5, deaf=deaf(last, unigram))
        return next((name for name in order if holds[name]), "healthy")
    return verdict


reading_the_last_step_alone = reading_variation(end=lambda losses: losses[-1])
reading_of_what_is_a_number = reading_variation(end=lambda losses: np.nanmean(losses[-len(losses) // 10:]))
reading_leak_before_loud = reading_variation(order=("leak", "diverged", "loud", "deaf"))
reading_never_loud = reading_variation(order=("diverged", "leak", "deaf"))
reading_never_diverged = reading_variation(order=("loud", "leak", "deaf"))
reading_deaf_only_near = reading_variation(deaf=lambda end, unigram: abs(end - unigram) < 0.1)
reading_the_lowest_as_the_end = reading_variation(end=np.nanmin)
reading_above_the_first = reading_variation(lowest=lambda losses: losses[0])


def reading_base_two(losses, V, unigram):
    return reading_variation(tolerance=math.log2(V) - math.log(V) + 0.5)(losses, V, unigram)


# 43_gpt: left_by_decay

def decay_of(rate, decay, steps, warmup, shape=None, start=0):
    from practitioner.steps import cosine
    schedule = shape or cosine(steps, warmup)
    return float(np.prod([1 - rate * decay * schedule(step) for step in range(start, steps)]))


def decay_at_the_full_rate(rate, decay, steps, warmup):
    return (1 - rate * decay) ** steps


def decay_without_the_rate(rate, decay, steps, warmup):
    return decay_of(1, decay, steps, warmup)


def decay_added_up(rate, decay, steps, warmup):
    from practitioner.steps import cosine
    return 1 - rate * decay * sum(cosine(steps, warmup)(step) for step in range(steps))


def decay_without_warm_up(rate, decay, steps, warmup):
    return decay_of(rate, decay, steps, 0)


def decay_after_the_warm_up(rate, decay, steps, warmup):
    return decay_of(rate, decay, steps, warmup, start=warmup)


def decay_along_a_line(rate, decay, steps, warmup):
    from practitioner.steps import linear
    return decay_of(rate, decay, steps, warmup, linear(steps, warmup))


def decay_what_is_taken(rate, decay, steps, warmup):
    return 1 - decay_of(rate, decay, steps, warmup)


def decay_exponential(rate, decay, steps, warmup):
    from practitioner.steps import cosine
    return math.exp(-rate * decay * sum(cosine(steps, warmup)(step) for step in range(steps)))


WRONG |= {
    "43_gpt: gpt2_parameters": [gpt2_without_the_last_norm, gpt2_last_norm_without_its_shift, gpt2_without_biases, gpt2_with_the_tables_of_gpt1, gpt2_untied,
                                gpt2_without_positions, gpt2_width_of_the_smallest],
    "43_gpt: reading": [reading_the_last_step_alone, reading_of_what_is_a_number, reading_leak_before_loud, reading_never_loud, reading_never_diverged,
                        reading_deaf_only_near, reading_the_lowest_as_the_end, reading_above_the_first, reading_base_two],
    "43_gpt: left_by_decay": [decay_at_the_full_rate, decay_without_the_rate, decay_added_up, decay_without_warm_up, decay_after_the_warm_up,
                              decay_along_a_line, decay_what_is_taken, decay_exponential],
}


# 44_recipe: seeds_needed

def seeds_by(quantile=lambda n: stats.t.ppf(0.975, n - 1), error=lambda n: n ** -0.5, first=2, narrow=lambda half, difference: half < difference):
    def needed(difference, deviation):
        n = first
        while not narrow(quantile(n) * deviation * error(n), difference):
            n += 1
        return n
    return needed


seeds_by_the_normal = seeds_by(lambda n: 1.959964)
seeds_one_sided = seeds_by(lambda n: stats.t.ppf(0.95, n - 1))
seeds_with_n_degrees = seeds_by(lambda n: stats.t.ppf(0.975, n))
seeds_of_the_whole_width = seeds_by(narrow=lambda half, difference: 2 * half < difference)
seeds_at_least_three = seeds_by(first=3)
seeds_one_too_many = lambda difference, deviation: seeds_by()(difference, deviation) + 1
seeds_of_two_groups = seeds_by(error=lambda n: (2 / n) ** 0.5)


def seeds_by_one_look_at_the_normal(difference, deviation):
    return max(2, math.ceil((1.96 * deviation / difference) ** 2))


# 44_recipe: rms_backward

def rms_by(normalised=lambda x, r: x / r, pull=lambda pulled, normal: (pulled * normal).mean(-1, keepdims=True), pulled=lambda gain, dy: gain * dy,
           gained=lambda normal, dy: normal, eps=1e-6, summed=lambda parts: parts.reshape(-1, parts.shape[-1]).sum(axis=0), after=lambda r: r):
    def backward(x, gain, dy):
        r = np.sqrt((x ** 2).mean(axis=-1, keepdims=True) + eps)
        normal, back = normalised(x, r), pulled(gain, dy)
        return (back - normal * pull(back, normal)) / after(r), summed(dy * gained(normal, dy))
    return backward


rms_as_if_r_were_fixed = rms_by(pull=lambda pulled, normal: 0)
rms_pull_added_up = rms_by(pull=lambda pulled, normal: (pulled * normal).sum(-1, keepdims=True))
rms_gain_forgotten = rms_by(pulled=lambda gain, dy: dy)
rms_like_layer_norm = rms_by(pull=lambda pulled, normal: (pulled * normal).mean(-1, keepdims=True) + pulled.mean(-1, keepdims=True) / normal)
rms_not_divided = rms_by(after=lambda r: 1)
rms_without_epsilon = rms_by(eps=0)
rms_gain_of_the_last_row = rms_by(summed=lambda parts: parts.reshape(-1, parts.shape[-1])[-1])
rms_gain_as_mean = rms_by(summed=lambda parts: parts.reshape(-1, parts.shape[-1]).mean(axis=0))
rms_gain_not_added_up = rms_by(summed=lambda parts: parts)
rms_gain_gets_dy = rms_by(gained=lambda normal, dy: 1)


# 44_recipe: fold_gain

def folded_by(change, own=True):
    def fold(norm, linear):
        folded = copy.deepcopy(linear) if own else linear
        with torch.no_grad():
            change(folded, norm.weight)
        return folded
    return fold


fold_in_place = folded_by(lambda linear, gain: linear.weight.mul_(gain), own=False)
fold_divided = folded_by(lambda linear, gain: linear.weight.div_(gain))
fold_nothing = folded_by(lambda linear, gain: None)
fold_rows_of_the_mean = folded_by(lambda linear, gain: linear.weight.mul_(gain.mean()))
fold_twice = folded_by(lambda linear, gain: linear.weight.mul_(gain ** 2))


def fold_without_the_bias(norm, linear):
    folded = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
    with torch.no_grad():
        folded.weight.copy_(linear.weight * norm.weight)
    return folded


def fold_as_a_function(norm, linear):
    return lambda x: torch.nn.functional.linear(x, linear.weight * norm.weight, linear.bias)


def fold_the_norm_too(norm, linear):
    folded = copy.deepcopy(linear)
    with torch.no_grad():
        folded.weight *= norm.weight
        norm.weight.fill_(1.0)
    return folded


WRONG |= {
    "44_recipe: seeds_needed": [seeds_by_the_normal, seeds_one_sided, seeds_with_n_degrees, seeds_of_the_whole_width, seeds_at_least_three, seeds_one_too_many,
                                seeds_of_two_groups, seeds_by_one_look_at_the_normal],
    "44_recipe: rms_backward": [rms_as_if_r_were_fixed, rms_pull_added_up, rms_gain_forgotten, rms_like_layer_norm, rms_not_divided, rms_without_epsilon,
                                rms_gain_of_the_last_row, rms_gain_as_mean, rms_gain_not_added_up, rms_gain_gets_dy],
    "44_recipe: fold_gain": [fold_in_place, fold_divided, fold_nothing, fold_rows_of_the_mean, fold_twice, fold_without_the_bias, fold_as_a_function,
                             fold_the_norm_too],
}


# 45_scaling: best_split

def split_by(exponent=lambda alpha, beta: beta / (alpha + beta), ratio=lambda log_A, log_B, alpha, beta: np.log(alpha / beta) + log_A - log_B, per_token=6, text=None):
    def split(law, C):
        _, log_A, log_B, alpha, beta = law
        size = np.exp(ratio(log_A, log_B, alpha, beta) / (alpha + beta)) * (C / per_token) ** exponent(alpha, beta)
        return size, (text or (lambda C, size: C / per_token / size))(C, size)
    return split


split_exponents_swapped = split_by(lambda alpha, beta: alpha / (alpha + beta))
split_in_halves = split_by(lambda alpha, beta: 0.5)
split_without_the_six = split_by(per_token=1)
split_six_in_the_text_alone = split_by(per_token=1, text=lambda C, size: C / 6 / size)
split_surcharges_equal = split_by(ratio=lambda log_A, log_B, alpha, beta: log_A - log_B)
split_other_way_round = split_by(ratio=lambda log_A, log_B, alpha, beta: np.log(beta / alpha) + log_B - log_A)
split_powers_forgotten_in_front = split_by(ratio=lambda log_A, log_B, alpha, beta: np.log(beta / alpha) + log_A - log_B)
split_twenty_tokens_a_weight = lambda law, C: ((C / 120) ** 0.5, 20 * (C / 120) ** 0.5)


# 45_scaling: lifetime

def lifetime_by(worth):
    def lifetime(times, value):
        candidates = np.geomspace(1e-3, 1e6, 200_001)
        return candidates[np.argmin(np.abs(worth(times, candidates) - value))]
    return lifetime


lifetime_first_reading_fades_too = lifetime_by(lambda times, R: R * -np.expm1(-times / R))
lifetime_first_reading_twice = lifetime_by(lambda times, R: 1 + R * -np.expm1(-times / R))
lifetime_first_reading_left_out = lifetime_by(lambda times, R: R * -np.expm1(-(times - 1) / R))
lifetime_in_powers_of_two = lifetime_by(lambda times, R: 1 + R * (1 - 2 ** (-(times - 1) / R)))
lifetime_without_the_factor = lifetime_by(lambda times, R: 1 + (times - 1) * -np.expm1(-(times - 1) / R))
lifetime_what_is_worth = lambda times, value: value
lifetime_on_a_coarse_grid = lambda times, value: min((1.0, 2.0, 5.0, 15.0, 50.0), key=lambda R: abs(1 + R * -np.expm1(-(times - 1) / R) - value))


# 45_scaling: cheapest

def cheapest_by(training=6, use=2, least=lambda law, target: target - np.exp(law[0]), power=lambda beta: -1 / beta):
    def cheapest(law, target, served):
        sizes = np.geomspace(1e-3, 1e4, 2_000_001)
        left = least(law, target) - np.exp(law[1]) * sizes ** -law[3]
        sizes, left = sizes[left > 0], left[left > 0]
        return sizes[np.argmin(sizes * (training * (left / np.exp(law[2])) ** power(law[4]) + use * served))]
    return cheapest


cheapest_to_train = cheapest_by(use=0)
cheapest_use_counted_as_training = cheapest_by(use=6)
cheapest_training_counted_as_use = cheapest_by(training=2)
cheapest_without_the_entropy = cheapest_by(least=lambda law, target: target)
cheapest_power_upside_down = cheapest_by(power=lambda beta: -beta)
cheapest_as_small_as_can_be = lambda law, target, served: (1 + 1e-6) * (np.exp(law[1]) / (target - np.exp(law[0]))) ** (1 / law[3])


WRONG |= {
    "45_scaling: best_split": [split_exponents_swapped, split_in_halves, split_without_the_six, split_six_in_the_text_alone, split_surcharges_equal,
                               split_other_way_round, split_powers_forgotten_in_front, split_twenty_tokens_a_weight],
    "45_scaling: lifetime": [lifetime_first_reading_fades_too, lifetime_first_reading_twice, lifetime_first_reading_left_out, lifetime_in_powers_of_two,
                             lifetime_without_the_factor, lifetime_what_is_worth, lifetime_on_a_coarse_grid],
    "45_scaling: cheapest": [cheapest_to_train, cheapest_use_counted_as_training, cheapest_training_counted_as_use, cheapest_without_the_entropy,
                             cheapest_power_upside_down, cheapest_as_small_as_can_be],
}


# 51_other_peoples_code: git_folder

def folder_by(order=sorted, mode=b"100644", name=bytes.fromhex, space=b" ", zero=b"\0", kind=b"tree", length=len):
    def folder(files):
        body = b"".join(mode + space + file.encode() + zero + name(files[file]) for file in order(files))
        return hashlib.sha1(kind + b" %d\0" % length(body) + body).hexdigest()
    return folder


folder_in_the_order_given = folder_by(order=list)
folder_backwards = folder_by(order=lambda files: sorted(files, reverse=True))
folder_in_hex_digits = folder_by(name=lambda name: name.encode())
folder_as_a_blob = folder_by(kind=b"blob")
folder_counts_files = folder_by(length=lambda body: body.count(b"100644"))
folder_with_another_mode = folder_by(mode=b"0100644")
folder_without_spaces = folder_by(space=b"")
folder_without_zeros = folder_by(zero=b"")
folder_by_the_names_alone = folder_by(mode=b"", space=b"", zero=b"")


# 51_other_peoples_code: find_heads

def heads_by(candidates=lambda n: [heads for heads in range(1, n + 1) if n % heads == 0], fits=lambda apart: apart.max() < 1e-3, copies=True, trained=False):
    def find(model, tokens, logits):
        n = model.config.n_embd
        for heads in candidates(n):
            other = copy.deepcopy(model) if copies else model
            for block in other.blocks:
                block.n_head = heads
            with torch.no_grad():
                if fits((other.train(trained)(tokens) - logits).abs()):
                    return heads
    return find


heads_changes_the_model = heads_by(copies=False)
heads_up_to_eight = heads_by(candidates=lambda n: [heads for heads in range(1, 9) if n % heads == 0])
heads_powers_of_two = heads_by(candidates=lambda n: [heads for heads in (1, 2, 4, 8, 16) if n % heads == 0])
heads_of_64 = lambda model, tokens, logits: max(1, model.config.n_embd // 64)
heads_as_loaded = lambda model, tokens, logits: model.config.n_head
heads_any_that_runs = heads_by(fits=lambda apart: True)
heads_by_one_logit = heads_by(fits=lambda apart: apart.min() < 1e-3)
heads_with_dropout = heads_by(trained=True)


def heads_the_nearest(model, tokens, logits):
    apart = {}
    for heads in range(1, model.config.n_embd + 1):
        if model.config.n_embd % heads == 0:
            heads_by(candidates=lambda n: [heads], fits=lambda off: apart.setdefault(heads, off.max().item()) < 0)(model, tokens, logits)
    return min(apart, key=apart.get)


# 51_other_peoples_code: surprise_after

after_in_nats = lambda s, z, new: s + np.logaddexp.reduce(np.append(z, new)) - np.logaddexp.reduce(z)
after_less = lambda s, z, new: s - (np.logaddexp.reduce(np.append(z, new)) - np.logaddexp.reduce(z)) / np.log(2)
after_the_bound = lambda s, z, new: s + np.log2(1 + len(new) / len(z))
after_of_the_new_alone = lambda s, z, new: s + np.logaddexp.reduce(new) / np.log(2)
after_as_if_s_were_nothing = lambda s, z, new: (np.logaddexp.reduce(np.append(z, new)) - np.logaddexp.reduce(z)) / np.log(2)
after_nothing = lambda s, z, new: s
after_by_the_largest = lambda s, z, new: s + (max(np.max(z), np.max(new)) - np.max(z)) / np.log(2)


def after_by_exponentials(s, z, new):
    with np.errstate(over="ignore", invalid="ignore"):
        return s + np.log2(1 + np.exp(new).sum() / np.exp(z).sum())


WRONG |= {
    "51_other_peoples_code: git_folder": [folder_in_the_order_given, folder_backwards, folder_in_hex_digits, folder_as_a_blob, folder_counts_files,
                                          folder_with_another_mode, folder_without_spaces, folder_without_zeros, folder_by_the_names_alone],
    "51_other_peoples_code: find_heads": [heads_changes_the_model, heads_up_to_eight, heads_powers_of_two, heads_of_64, heads_as_loaded, heads_any_that_runs,
                                          heads_by_one_logit, heads_with_dropout, heads_the_nearest],
    "51_other_peoples_code: surprise_after": [after_in_nats, after_less, after_the_bound, after_of_the_new_alone, after_as_if_s_were_nothing, after_nothing,
                                              after_by_the_largest, after_by_exponentials],
}


# 52_chat: mask_of

def mask_by(head=False, last=True, after_end=False, unknown=False, all_heads=True, first_only=False):
    def mask(tokens, person, bot, end):
        marks, by_bot, replies = [], unknown, 0
        for token in tokens:
            is_head = token == bot or all_heads and token == person
            replies += token == bot
            count = (by_bot and not is_head) or (head and token == bot)
            marks.append(bool(count and (last or token != end) and not (first_only and replies > 1)))
            by_bot = token == bot or by_bot and not is_head and (after_end or token != end)
        return marks
    return mask


def mask_between_pairs(tokens, person, bot, end):
    marks = len(tokens) * [False]
    for place, token in enumerate(tokens):
        if token == bot and end in tokens[place:]:
            for inside in range(place + 1, tokens.index(end, place) + 1):
                marks[inside] = True
    return marks


def mask_of_the_targets(tokens, person, bot, end):
    return mask_by()(tokens, person, bot, end)[1:]


def mask_shifted(tokens, person, bot, end):
    return [*mask_by()(tokens, person, bot, end)[1:], False][:len(tokens)]


def mask_of_the_numbers_in_the_check(tokens, person, bot, end):
    return mask_by()(tokens, 7, 8, 9)


def hits_without_what_is_no_number(costs, k):
    return hits_by()(np.asarray(costs)[~np.isnan(np.asarray(costs)[:, 0])], k)


MASKS = dict(mask_with_the_head=mask_by(head=True), mask_without_the_end=mask_by(last=False), mask_that_goes_on_after_the_end=mask_by(after_end=True),
             mask_of_what_came_before=mask_by(unknown=True), mask_through_the_person=mask_by(all_heads=False), mask_of_the_first_reply=mask_by(first_only=True))
for name, function in MASKS.items():
    function.__name__ = name


# 52_chat: hits_at

def hits_by(better=lambda others, right: others <= right, refuse=True, numbers=True, within=lambda places, k: places < k, column=0, gather=np.mean):
    def hits(costs, k):
        if refuse and not 1 <= k <= costs.shape[1]:
            raise ValueError(k)
        right = costs[:, column][:, None]
        found = within(better(np.delete(costs, column, axis=1), right).sum(axis=1), k)
        return float(gather(found & ~np.isnan(right[:, 0]) if numbers else found))
    return hits


def hits_by_argsort(costs, k):
    if not 1 <= k <= costs.shape[1]:
        raise ValueError(k)
    return float((costs.argsort(axis=1, kind="stable")[:, :k] == 0).any(axis=1).mean())


HITS = dict(hits_ties_are_won=hits_by(lambda others, right: others < right), hits_of_any_k=hits_by(refuse=False), hits_that_are_no_number=hits_by(numbers=False),
            hits_one_too_many=hits_by(within=lambda places, k: places <= k), hits_of_the_first_alone=hits_by(within=lambda places, k: places < 1),
            hits_of_the_dearest=hits_by(lambda others, right: others >= right), hits_of_the_last_column=hits_by(column=-1), hits_counted=hits_by(gather=np.sum))
for name, function in HITS.items():
    function.__name__ = name


# 52_chat: as_turns

def turns_by(join=" ", opening="Hi!", strip=True, empty=False, system="user", refuse=True, merge=True, named=True):
    def turns_of(messages):
        turns, waiting = [], ""
        for message in messages:
            role, text = message["role"], message["content"].strip() if strip else message["content"]
            if role not in ("user", "assistant", "system"):
                if refuse:
                    raise ValueError(f"not {role}" if named else "no such role")
                continue
            if not text.strip() and not empty:
                continue
            if role == "system":
                if system in ("user", "last"):
                    waiting = f"{waiting} {text}".strip() if system == "user" else text
                elif system == "now":
                    turns.append(text)
                continue
            if role == "user":
                text, waiting = f"{waiting} {text}".strip() if waiting else text, ""
            if len(turns) % 2 == (role == "assistant"):
                turns.append(text)
            elif turns and merge:
                turns[-1] += join + text
            elif turns:
                turns.append(text)
            else:
                turns += ([opening] if opening else []) + [text]
        if not turns and refuse:
            raise ValueError("nothing")
        return turns
    return turns_of


TURNS = dict(turns_joined_without_a_space=turns_by(join=""), turns_without_an_opening=turns_by(opening=None), turns_as_they_are=turns_by(strip=False),
             turns_with_empty_ones=turns_by(empty=True), turns_without_the_system=turns_by(system="none"), turns_with_the_system_as_a_turn=turns_by(system="now"),
             turns_of_anybody=turns_by(refuse=False), turns_not_joined=turns_by(merge=False), turns_without_the_name_of_the_role=turns_by(named=False),
             turns_with_the_last_system_alone=turns_by(system="last"))
for name, function in TURNS.items():
    function.__name__ = name


WRONG |= {
    "52_chat: mask_of": [*MASKS.values(), mask_between_pairs, mask_of_the_targets, mask_shifted, mask_of_the_numbers_in_the_check],
    "52_chat: hits_at": [*HITS.values(), hits_by_argsort, hits_without_what_is_no_number],
    "52_chat: as_turns": list(TURNS.values()),
}


# 53_lora: largest_rank

def rank_by(of_a_rank=lambda shapes: 16 * sum(m + n for m, n in shapes), rest=lambda memory, frozen: memory - 4 * frozen, most=lambda shapes: min(map(min, shapes)),
            round=math.floor, least=0):
    def largest(memory, frozen, shapes):
        return max(least, min(round(rest(memory, frozen) / of_a_rank(shapes)), most(shapes)))
    return largest


RANK = dict(rank_all_weights_learn=rank_by(rest=lambda memory, frozen: memory - 16 * frozen), rank_without_the_weights=rank_by(rest=lambda memory, frozen: memory),
            rank_without_averages=rank_by(lambda shapes: 8 * sum(map(sum, shapes))), rank_one_average=rank_by(lambda shapes: 12 * sum(map(sum, shapes))),
            rank_without_gradients=rank_by(lambda shapes: 4 * sum(map(sum, shapes))), rank_of_whole_matrices=rank_by(lambda shapes: 16 * sum(m * n for m, n in shapes)),
            rank_of_one_factor=rank_by(lambda shapes: 16 * sum(n for _, n in shapes)), rank_of_the_first=rank_by(lambda shapes: 16 * sum(shapes[0])),
            rank_without_end=rank_by(most=lambda shapes: 10 ** 9), rank_up_to_the_longer_side=rank_by(most=lambda shapes: max(map(max, shapes))),
            rank_up_to_the_widest=rank_by(most=lambda shapes: max(map(min, shapes))), rank_that_nearly_fits=rank_by(round=math.ceil), rank_at_least_one=rank_by(least=1),
            rank_below_nothing=rank_by(least=-math.inf))
for name, function in RANK.items():
    function.__name__ = name


# 53_lora: joined

def together_by(A=lambda one, other: torch.cat((one[0], other[0])), B=lambda one, other: torch.cat((one[2] * one[1], other[2] * other[1]), dim=1), scale=lambda one, other: 1.0):
    return lambda one, other: (A(one, other), B(one, other), scale(one, other))


def together_in_place(one, other):
    for part in one, other:
        part[1].mul_(part[2])
    return torch.cat((one[0], other[0])), torch.cat((one[1], other[1]), dim=1), 1.0


def together_added_up(one, other):
    r = min(len(one[0]), len(other[0]))
    return one[0][:r] + other[0][:r], one[1][:, :r] + other[1][:, :r], (one[2] + other[2]) / 2


def together_of_full_rank(one, other):
    return torch.eye(one[0].shape[1]).double(), one[2] * one[1] @ one[0] + other[2] * other[1] @ other[0], 1.0


def together_cut_to_the_larger(one, other):
    U, s, V = torch.linalg.svd(one[2] * one[1] @ one[0] + other[2] * other[1] @ other[0], full_matrices=False)
    r = max(len(one[0]), len(other[0]))
    return s[:r, None] * V[:r], U[:, :r], 1.0


TOGETHER = dict(together_without_scales=together_by(B=lambda one, other: torch.cat((one[1], other[1]), dim=1)), together_the_first_one_s_scale=together_by(
                  B=lambda one, other: torch.cat((one[1], other[1]), dim=1), scale=lambda one, other: one[2]),
              together_mean_scale=together_by(B=lambda one, other: torch.cat((one[1], other[1]), dim=1), scale=lambda one, other: (one[2] + other[2]) / 2),
              together_crossed=together_by(A=lambda one, other: torch.cat((other[0], one[0]))), together_scaled_twice=together_by(
                  A=lambda one, other: torch.cat((one[2] * one[0], other[2] * other[0]))),
              together_one_alone=together_by(A=lambda one, other: one[0], B=lambda one, other: one[1], scale=lambda one, other: one[2]))
for name, function in TOGETHER.items():
    function.__name__ = name


# 53_lora: factors_of

def factors_by(left=0.5, right=0.5, order=slice(None), turned=False, whole=False):
    def factors(change, r):
        U, s, V = torch.linalg.svd(change, full_matrices=False)
        U, s, V = U[:, order], s[order], V[order]
        r = len(s) if whole else r
        B, A = U[:, :r] * s[:r] ** left, s[:r, None] ** right * V[:r]
        return (A.T, B.T) if turned else (B, A)
    return factors


def factors_of_rows(change, r):
    return torch.cat((torch.eye(r), torch.zeros(len(change) - r, r))).double(), change[:r]


def factors_by_eigenvalues(change, r):
    V = torch.linalg.eigh(change.T @ change)[1][:, :r].T
    return change @ V.T, V


def factors_of_one_length(change, r):
    B, A = factors_by(1, 0)(change, r)
    balance = (B.norm() / A.norm()).sqrt()
    return B / balance, A * balance


FACTORS = dict(factors_all_in_b=factors_by(1, 0), factors_all_in_a=factors_by(0, 1), factors_without_values=factors_by(0, 0), factors_values_twice=factors_by(1, 1),
               factors_the_smallest=factors_by(order=torch.arange(-1, -4, -1)), factors_turned=factors_by(turned=True), factors_of_full_rank=factors_by(whole=True))
for name, function in FACTORS.items():
    function.__name__ = name


WRONG |= {
    "53_lora: largest_rank": list(RANK.values()),
    "53_lora: joined": [*TOGETHER.values(), together_in_place, together_added_up, together_of_full_rank, together_cut_to_the_larger],
    "53_lora: factors_of": [*FACTORS.values(), factors_of_rows, factors_by_eigenvalues, factors_of_one_length],
}


# 54_sampling: without_repeats

def without_by(ends=lambda text, n: text[len(text) - n + 1:], span=lambda n: n - 1, places=lambda text, n: range(len(text) - n + 1), copies=True, value=-torch.inf,
               follows=lambda i, n: i + n - 1):
    def without(z, said, n):
        z = z.clone() if copies else z
        for row, text in zip(z, said.tolist()):
            for i in places(text, n):
                if text[i:i + span(n)] == ends(text, n):
                    row[text[follows(i, n)]] = value
        return z
    return without


without_in_place = without_by(copies=False)
without_pairs_only = without_by(ends=lambda text, n: text[-1:], span=lambda n: 1, places=lambda text, n: range(len(text) - 1), follows=lambda i, n: i + 1)
without_the_last_place = without_by(places=lambda text, n: range(len(text) - n))
without_the_first_only = without_by(places=lambda text, n: [i for i in range(len(text) - n + 1) if text[i:i + n - 1] == text[len(text) - n + 1:]][:1])
without_a_zero = without_by(value=0.0)
without_minus_a_lot = without_by(value=-1e4)
without_what_ends = without_by(follows=lambda i, n: max(i + n - 2, 0))


def without_n_more(z, said, n):
    return without_by()(z, said, n + 1) if said.shape[1] > n else z.clone()


def without_the_last_n(z, said, n):
    z = z.clone()
    for row, text in zip(z, said.tolist()):
        row[text[-n:]] = -torch.inf
    return z


def without_by_the_first_row(z, said, n):
    return without_by()(z, said[:1].expand(len(z), -1), n)


# 54_sampling: temperature_for

def temperature_by(low=1e-6, high=1e6, base=2, turned=False, scaled=lambda z, T: z / T, steps=200):
    def temperature(z, bits):
        least, most = low, high
        for _ in range(steps):
            middle = (least * most) ** 0.5
            log_p = scaled(z, middle).log_softmax(dim=0)
            entropy = -(log_p.exp() * log_p).sum() / np.log(base)
            least, most = (middle, most) if (entropy < bits) != turned else (least, middle)
        return (least * most) ** 0.5
    return temperature


temperature_in_nats = temperature_by(base=np.e)
temperature_turned = temperature_by(turned=True)
temperature_times = temperature_by(scaled=lambda z, T: z * T)
temperature_up_to_one = temperature_by(low=1e-6, high=1.0)
temperature_from_a_tenth = temperature_by(low=0.3)
temperature_in_few_steps = temperature_by(steps=6)
temperature_by_perplexity = lambda z, bits: 2 ** bits / len(z)
temperature_one = lambda z, bits: 1.0


# 54_sampling: best_of_chances

def chances_by(rule):
    def chances(p, scores, n):
        p, scores = np.asarray(p), np.asarray(scores)
        below = np.array([p[scores < score].sum() for score in scores])
        return rule(p, scores, n, below)
    return chances


chances_of_the_draw = chances_by(lambda p, scores, n, below: p)
chances_not_better = chances_by(lambda p, scores, n, below: (below + p) ** n)
chances_first_and_rest_below = chances_by(lambda p, scores, n, below: p * below ** (n - 1))
chances_n_times_the_rest_below = chances_by(lambda p, scores, n, below: n * p * below ** (n - 1))
chances_of_the_worst = chances_by(lambda p, scores, n, below: (1 - below) ** n - (1 - below - p) ** n)
chances_at_least_once = chances_by(lambda p, scores, n, below: 1 - (1 - p) ** n)
chances_by_scores = chances_by(lambda p, scores, n, below: np.exp(scores * n) * p / (np.exp(scores * n) * p).sum())


def chances_in_order_of_scores(p, scores, n):
    heaped = np.cumsum(np.asarray(p)[np.argsort(scores)])
    return np.diff(heaped ** n, prepend=0)


WRONG |= {
    "54_sampling: without_repeats": [without_in_place, without_pairs_only, without_the_last_place, without_the_first_only, without_a_zero, without_minus_a_lot,
                                     without_what_ends, without_n_more, without_the_last_n, without_by_the_first_row],
    "54_sampling: temperature_for": [temperature_in_nats, temperature_turned, temperature_times, temperature_up_to_one, temperature_from_a_tenth,
                                     temperature_in_few_steps, temperature_by_perplexity, temperature_one],
    "54_sampling: best_of_chances": [chances_of_the_draw, chances_not_better, chances_first_and_rest_below, chances_n_times_the_rest_below, chances_of_the_worst,
                                     chances_at_least_once, chances_by_scores, chances_in_order_of_scores],
}


# 55_kv_cache: rows_that_fit

def fit_by(of_a_text, left=lambda memory, weights: max(memory - weights, 0), round=lambda texts: int(texts)):
    def fit(memory, weights, places, n_layer, n_embd, n_head, n_kv, of_a_number=4):
        return round(left(memory, weights) / of_a_text(places, n_layer, n_embd, n_head, n_kv, of_a_number))
    return fit


fit_right = lambda places, n_layer, n_embd, n_head, n_kv, of_a_number: 2 * places * n_layer * n_embd // n_head * n_kv * of_a_number
FIT = dict(fit_keys_alone=fit_by(lambda *sizes: fit_right(*sizes) / 2),
           fit_as_if_not_grouped=fit_by(lambda places, n_layer, n_embd, n_head, n_kv, size: fit_right(places, n_layer, n_embd, n_head, n_head, size)),
           fit_groups_the_wrong_way=fit_by(lambda places, n_layer, n_embd, n_head, n_kv, size: fit_right(places, n_layer, n_embd, n_kv, n_head, size)),
           fit_one_layer=fit_by(lambda places, n_layer, *sizes: fit_right(places, 1, *sizes)),
           fit_always_four_bytes=fit_by(lambda *sizes: fit_right(*sizes[:-1], 4)),
           fit_a_text_too_many=fit_by(fit_right, round=math.ceil),
           fit_without_the_weights=fit_by(fit_right, left=lambda memory, weights: memory),
           fit_below_nothing=fit_by(fit_right, left=lambda memory, weights: memory - weights, round=math.floor))
for name, function in FIT.items():
    function.__name__ = name


# 55_kv_cache: without_gains

def gains_by(parts=("norm_1", "norm_2", "norm"), gate=True, reset=True, keep=True, refuse=True, power=1):
    def without(model):
        recipe = model.recipe
        if refuse and (recipe.norm != "rms" or not recipe.pre_norm or recipe.tied):
            raise ValueError("not with this recipe")
        other = copy.deepcopy(model) if keep else model
        pairs = [(other.norm, [other.output])] if "norm" in parts and other.output is not None else []
        for block in other.blocks:
            pairs += [(block.norm_1, [block.qkv])] if "norm_1" in parts else []
            pairs += [(block.norm_2, [block.up] + [block.gate] * (gate and block.gate is not None))] if "norm_2" in parts else []
        with torch.no_grad():
            for norm, readers in pairs:
                for linear in readers:
                    linear.weight *= norm.weight ** power
                if reset:
                    norm.weight.fill_(1)
        return other
    return without


def gains_untouched(model):
    return model


def gains_forgotten(model):
    other = copy.deepcopy(model)
    for name, parameter in other.named_parameters():
        if "norm" in name and "q_norm" not in name and "k_norm" not in name:
            parameter.data.fill_(1)
    return other


GAINS = dict(gains_in_place=gains_by(keep=False), gains_without_the_gate=gains_by(gate=False), gains_without_the_last_norm=gains_by(("norm_1", "norm_2")),
             gains_without_the_network=gains_by(("norm_1", "norm")), gains_twice=gains_by(reset=False), gains_divided=gains_by(power=-1),
             gains_of_any_recipe=gains_by(refuse=False))
for name, function in GAINS.items():
    function.__name__ = name


# 55_kv_cache: is_safe

def safe_by(loud=True, at_once=True, by_cache=True, single=True, kept=True, places=slice(None), every=True, answer=None):
    @torch.no_grad()
    def safe(change, model):
        from practitioner.cache import Cache, CachedLM
        from practitioner.gpt import louder
        if answer is not None:
            return answer
        given = louder(copy.deepcopy(model)).eval() if loud else model
        before, T, V = copy.deepcopy(given.state_dict()), given.context, given.recipe.vocab_size
        asked = torch.arange(V * T).reshape(-1, T) % (V if every else V - 1)
        golden = given(asked)
        changed = change(given)
        if kept and any(not torch.equal(before[name], value) for name, value in given.state_dict().items()):
            return False
        found = [(changed(asked), golden)] if at_once else []
        if by_cache:
            reader, cache = CachedLM(changed), Cache(changed, len(asked))
            found.append((torch.cat([reader(part, cache) for part in asked.split([1, T // 2, T - T // 2 - 1], 1)], dim=1), golden))
        found += [(changed(asked[:, :1]), golden[:, :1])] if single else []
        return all(((one - other)[:, places].abs() < 1e-4).all().item() for one, other in found)
    return safe


SAFE = dict(safe_always=safe_by(answer=True), safe_never=safe_by(answer=False), safe_as_it_was_made=safe_by(loud=False), safe_by_the_cache_alone=safe_by(at_once=False),
            safe_at_once_alone=safe_by(by_cache=False), safe_in_full_rows_alone=safe_by(single=False), safe_whatever_is_left=safe_by(kept=False),
            safe_without_the_last_place=safe_by(places=slice(0, 15)), safe_without_the_last_token=safe_by(every=False))
for name, function in SAFE.items():
    function.__name__ = name


# 55_kv_cache: best_ahead

def ahead_by(tokens=lambda a, k: sum(a ** i for i in range(k + 1)), time=lambda c, k: 1 + k * c, tie=-1):
    def ahead(a, c):
        return max(range(51), key=lambda k: (round(tokens(a, k) / time(c, k), 12), tie * k))
    return ahead


AHEAD = dict(ahead_guesses_are_free=ahead_by(time=lambda c, k: 1), ahead_each_by_itself=ahead_by(lambda a, k: 1 + a * k),
             ahead_without_the_one_that_comes_anyway=ahead_by(lambda a, k: sum(a ** i for i in range(1, k + 1))), ahead_all_or_nothing=ahead_by(lambda a, k: 1 + k * a ** k),
             ahead_the_largest=ahead_by(tie=1), ahead_without_the_pass=ahead_by(time=lambda c, k: max(k * c, c)), ahead_most_tokens=ahead_by(time=lambda c, k: 1 + c))
for name, function in AHEAD.items():
    function.__name__ = name


WRONG |= {
    "55_kv_cache: rows_that_fit": list(FIT.values()),
    "55_kv_cache: without_gains": [*GAINS.values(), gains_untouched, gains_forgotten],
    "55_kv_cache: is_safe": list(SAFE.values()),
    "55_kv_cache: best_ahead": list(AHEAD.values()),
}


# 56_chatbot: enough

def enough_by(ends=r"[.?!]+(?=\s)", last=r"[.?!]+$", always=False, count=0, exact=False, keep=0):
    def enough(text, sentences, over=False):
        found = [each.end() for each in re.finditer(ends, text)]
        end = re.search(last, text)
        if (over or always) and end and end.end() not in found:
            found.append(end.end())
        if len(found) < sentences or exact and len(found) != sentences:
            return None
        return found[sentences - 1 + count] - keep if len(found) > sentences - 1 + count else None
    return enough


def enough_at_every_mark(text, sentences, over=False):
    marks = [place + 1 for place, sign in enumerate(text) if sign in ".?!"]
    return marks[sentences - 1] if len(marks) >= sentences else None


def enough_by_pieces(text, sentences, over=False):
    parts = re.split(r"[.?!]+", text)
    return len(".".join(parts[:sentences])) + 1 if len(parts) > sentences else None


def enough_of_text_alone(text, sentences, over=False):
    return len(text) if over else None


ENOUGH = dict(enough_without_waiting=enough_by(always=True), enough_never_at_the_end=enough_by(last=r"(?!)"), enough_without_the_mark=enough_by(r"[.?!]+(?=\s)", keep=1),
              enough_full_stops_alone=enough_by(r"[.]+(?=\s)", r"[.]+$"), enough_each_mark_a_sentence=enough_by(r"[.?!](?=\s|[.?!])"), enough_one_too_many=enough_by(count=1),
              enough_with_the_space=enough_by(r"[.?!]+\s"), enough_no_more_and_no_fewer=enough_by(exact=True), enough_without_white_space=enough_by(r"[.?!]+"))
for name, function in ENOUGH.items():
    function.__name__ = name


# 56_chatbot: pinned_prompt

def pinned_by(pairs=True, fits=True, whole=True, left_of=lambda room, first: room - len(first), order=lambda first, rest: first + rest):
    def pinned_prompt(dialect, pinned, turns, room):
        from practitioner.chat import prompt
        if pairs and len(pinned) % 2:
            raise ValueError("pairs")
        first = [token for head, body in dialect.conversation(pinned) for token in head + body]
        head, body = dialect.conversation(turns)[-1]
        left = left_of(room, first)
        if fits and len(head) + len(body) + len(dialect.heads[1]) > left:
            raise ValueError("no room")
        rest = prompt(dialect, turns, left)
        if not whole:
            every = [token for head, body in dialect.conversation(turns) for token in head + body] + list(dialect.heads[1])
            rest = every[-left:]
        return order(first, rest)
    return pinned_prompt


def pinned_as_turns(dialect, pinned, turns, room):
    from practitioner.chat import prompt
    if len(pinned) % 2:
        raise ValueError("pairs")
    return prompt(dialect, [*pinned, *turns], room)


def pinned_while_there_is_room(dialect, pinned, turns, room):
    from practitioner.chat import prompt
    if len(pinned) % 2:
        raise ValueError("pairs")
    first = [token for head, body in dialect.conversation(pinned) for token in head + body]
    rest = prompt(dialect, turns, room)
    return first + rest if len(first) + len(rest) <= room else rest


PINNED = dict(pinned_any_number=pinned_by(pairs=False), pinned_cuts_the_newest=pinned_by(fits=False), pinned_cuts_the_oldest=pinned_by(whole=False),
              pinned_beyond_the_room=pinned_by(left_of=lambda room, first: room), pinned_behind=pinned_by(order=lambda first, rest: rest[:-1] + first + rest[-1:]),
              pinned_one_token_less=pinned_by(left_of=lambda room, first: room - len(first) - 1), pinned_without_the_bot=pinned_by(order=lambda first, rest: first + rest[:-1]))
for name, function in PINNED.items():
    function.__name__ = name


# 56_chatbot: misses

def misses_by(counted=lambda alarm, row: not alarm(row["text"]), meant=lambda row: row["meant"], every="all", limits=None):
    def clopper_pearson(k, n):
        return stats.binomtest(k, n).proportion_ci(0.95, "exact")

    def misses(alarm, rows):
        found = {}
        for row in rows:
            if meant(row):
                for kind in (row["kind"], every) if every else (row["kind"],):
                    found.setdefault(kind, []).append(bool(counted(alarm, row)))
        return {kind: (sum(each), len(each), *map(float, (limits or clopper_pearson)(sum(each), len(each)))) for kind, each in found.items()}
    return misses


MISSES = dict(misses_are_hits=misses_by(lambda alarm, row: alarm(row["text"])), misses_of_all_rows=misses_by(meant=lambda row: True), misses_without_all=misses_by(every=None),
              misses_by_wilson=misses_by(limits=lambda k, n: stats.binomtest(k, n).proportion_ci(0.95, "wilson")),
              misses_by_the_normal_law=misses_by(limits=lambda k, n: np.clip(k / n + np.array([-1.96, 1.96]) * np.sqrt(k / n * (1 - k / n) / n), 0, 1)),
              misses_with_90_percent=misses_by(limits=lambda k, n: stats.binomtest(k, n).proportion_ci(0.9, "exact")),
              misses_with_one_side=misses_by(limits=lambda k, n: (0.0, stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact").high)),
              misses_without_limits=misses_by(limits=lambda k, n: (k / n, k / n)))
for name, function in MISSES.items():
    function.__name__ = name


WRONG |= {
    "56_chatbot: enough": [*ENOUGH.values(), enough_at_every_mark, enough_by_pieces, enough_of_text_alone],
    "56_chatbot: pinned_prompt": [*PINNED.values(), pinned_as_turns, pinned_while_there_is_room],
    "56_chatbot: misses": list(MISSES.values()),
}


def test_every_exercise_has_wrong_answers():
    assert sorted(WRONG) == sorted(EXERCISES)
    assert all(len(set(answers)) >= 3 for answers in WRONG.values())


@pytest.mark.parametrize("exercise, answer", [pytest.param(exercise, answer, id=answer.__name__) for exercise, answers in WRONG.items() for answer in answers])
def test_a_wrong_answer_is_refused_with_a_message(exercise, answer):
    random.seed()  # or a test before could have left the very state that a wrong answer sets
    tried = Tried(exercise)
    assert list(inspect.signature(answer).parameters) == list(inspect.signature(tried.stub).parameters)
    with warnings.catch_warnings(), pytest.raises(AssertionError) as error:
        warnings.simplefilter("ignore")  # the logarithm of 0, in one of them
        tried.check(answer)
    assert len(str(error.value)) >= 10, "a reader must be told what is wrong"


# judge()

def not_attempted(attempt):
    raise NotImplementedError


def refuse(attempt):
    raise AssertionError("twice two and one")  # raised, not asserted: pytest would add to the message


@pytest.mark.parametrize("check, says", [
    (not_attempted, "four: not attempted yet. Write it in the cell above, then run this one again.\n"),
    (refuse, "four: not yet. twice two and one\n"),
    (lambda attempt: None, "four: correct.\n"),
], ids=["stub", "wrong", "right"])
def test_judge_has_three_answers(capsys, check, says):
    def four():
        return 4
    judge(check, four)
    assert capsys.readouterr().out == says


def test_judge_hides_no_other_error():
    """A reader's own bug keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        judge(lambda attempt: attempt(), lambda: 1 / 0)
