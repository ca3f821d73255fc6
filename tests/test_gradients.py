"""Gradients of our own held against torch.autograd on random programs, and the check by nudging against gradients known to be right and wrong."""
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from practitioner.gradients import Array, Value, backward, check_gradient, matrix_product, numerical_gradient, sum_over, sum_to, topological_order

quick = settings(max_examples=150, deadline=None, derandomize=True)
numbers = st.floats(-2, 2).map(lambda x: round(x, 3))

# Each operation keeps what it makes in reach, so that the derivatives stay finite and 1e-6 of them means something
SCALAR = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b * 0.5, "divide": lambda a, b: a / (b * b + 1),
    "add 3": lambda a, b: a + 3, "3 minus": lambda a, b: 3 - a, "5 plus": lambda a, b: 5 + b, "half": lambda a, b: 0.5 * a,
    "reciprocal": lambda a, b: 2 / (a * a + 1), "minus": lambda a, b: -a, "square": lambda a, b: a.tanh() ** 2, "cube": lambda a, b: b.tanh() ** 3,
    "root": lambda a, b: (a * a + 1) ** 0.5, "exp": lambda a, b: a.tanh().exp(), "log": lambda a, b: (b * b + 1).log(), "tanh": lambda a, b: a.tanh(),
    "relu": lambda a, b: (a + 0.01).relu(), "twice the same": lambda a, b: (a + a) * a.tanh()}


def run(program, values):
    """The sum of all that the program computes: each operation works on any two of the values before it."""
    values = list(values)
    for name, i, j in program:
        values.append(SCALAR[name](values[i % len(values)], values[j % len(values)]))
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


programs = st.lists(st.tuples(st.sampled_from(sorted(SCALAR)), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


def assert_equal_to_torch(make, of, inputs, function):
    """`function` of our nodes and of torch's tensors: the same value, and gradients within 1e-6."""
    ours, theirs = [make(each) for each in inputs], [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in inputs]
    result, expected = function(ours), function(theirs)
    assert math.isfinite(expected.detach())
    backward(result)
    expected.backward()
    np.testing.assert_allclose(result.data, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    for mine, other in zip(ours, theirs):
        wanted = np.zeros(other.shape) if other.grad is None else other.grad.numpy()
        np.testing.assert_allclose(of(mine), wanted, rtol=1e-6, atol=1e-6)


# Numbers

@quick
@given(st.lists(numbers, min_size=1, max_size=4), programs)
def test_random_programs_of_numbers_have_torch_s_gradients(inputs, program):
    # relu's kink and its neighbourhood: the two may round to different sides
    assert_equal_to_torch(Value, lambda value: value.grad, inputs, lambda values: run(program, values))


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("a, b", [(0.7, -1.3), (-0.4, 0.9)])
def test_each_operation_alone(name, a, b):
    assert_equal_to_torch(Value, lambda value: value.grad, [a, b], lambda values: SCALAR[name](*values) + 0 * values[0] + 0 * values[1])
    assert_equal_to_torch(Array, lambda array: array.grad, [[a, b], [b, a]], lambda values: (SCALAR[name](*values) + 0 * values[0] + 0 * values[1]).sum())


def test_relu_has_no_slope_at_its_kink_as_in_torch():
    x, array = Value(0.0), Array([0.0])
    backward(x.relu())
    backward(array.relu().sum())
    assert x.grad == 0 and array.grad.tolist() == [0]


def test_a_number_of_numpy_on_the_left_is_taken_as_a_number():
    x = Value(3.0)
    for number in np.float64(2), np.float32(2), np.int64(2):
        assert isinstance(number * x, Value) and (number * x).data == 6 and (number - x).data == -1 and (number / x).data == 2 / 3
    assert isinstance(np.array([1.0, 2]) * Array([3.0, 4]), Array) and (np.array([1.0, 2]) - Array([3.0, 5])).data.tolist() == [-2, -3]


@pytest.mark.parametrize("n, slope", [(0, 0.0), (1, 1.0), (2, 0.0), (1.5, 0.0), (3.0, 0.0), (np.int64(2), 0.0), (np.float32(1), 1.0)])
def test_powers_of_zero(n, slope):
    value, array, tensor = Value(0.0), Array([0.0, 3.0]), torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    backward(value ** n)
    backward((array ** n).sum())
    (tensor ** float(n)).sum().backward()
    assert value.grad == slope and array.grad[0] == slope and (value ** n).data == (n == 0)
    np.testing.assert_allclose(array.grad, tensor.grad.numpy(), rtol=1e-12)


def test_whole_powers_of_negative_numbers():
    for n in 2, 3, -1, 3.0:
        value, array = Value(-2.0), Array([-2.0])
        backward(value ** n)
        backward((array ** n).sum())
        assert math.isclose(value.grad, n * (-2.0) ** (n - 1)) and math.isclose(array.grad[0], value.grad)


@pytest.mark.parametrize("bad, says", [
    (lambda: Value(0.0).log(), "above 0, not 0.0"), (lambda: Value(-1.0).log(), "above 0, not -1.0"), (lambda: Value(math.nan).log(), "not nan"),
    (lambda: Value(1.0) ** Value(2.0), "exponent is a plain number"), (lambda: Array([1.0]) ** Array([2.0]), "exponent is a plain number"),
    (lambda: backward(Array([1.0, 2.0])), r"shape \(2,\)"), (lambda: Array([1.0, 2]) @ Array([[1.0], [2]]), r"\(2,\) and \(2, 1\)"),
    (lambda: matrix_product(Array([[1.0, 2]]), Array([1.0, 2])), r"\(1, 2\) and \(2,\)"),
    (lambda: numerical_gradient(float, 1.0, 0), "above 0, not 0"), (lambda: numerical_gradient(float, 1.0, -1e-6), "above 0, not -1e-06"),
    (lambda: numerical_gradient(float, 1.0, math.nan), "above 0, not nan"),
    (lambda: check_gradient(np.sum, np.zeros(3), np.zeros(2)), r"\(3,\), not \(2,\)"),
    (lambda: check_gradient(np.sum, [], []), r"nothing to check: the shape is \(0,\)"),
    (lambda: numerical_gradient(np.sum, [1.0, 1e12]), "6e-06 is lost in the rounding of 1000000000000.0"),
    (lambda: numerical_gradient(np.sum, [math.nan]), "rounding of nan"),
    (lambda: Array([1.0, 0.0]).log(), "above 0, not 0.0"), (lambda: Array([1.0, -1.0]).log(), "above 0, not -1.0"),
    (lambda: Array([1.0, math.nan]).log(), "not nan"),
    (lambda: Value(-1.0) ** 0.5, "power 0.5 is for numbers from 0 on, not -1.0"), (lambda: Array([2.0, -3.0]) ** 1.5, "power 1.5 .* not -3.0"),
    (lambda: Value(math.nan) ** 0.5, "not nan"),
    (lambda: Value(0.0) ** 0.5, "not 0.5"), (lambda: Array([1.0, 0.0]) ** 0.5, "not 0.5"), (lambda: 1 / Value(0.0), "not -1"),
    (lambda: 1 / Array([1.0, 0.0]), "not -1")])
def test_what_cannot_be_is_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        bad()


# The walk

@quick
@given(st.lists(numbers, min_size=1, max_size=3), programs)
def test_the_order_has_each_node_once_and_after_its_parents(inputs, program):
    leaves = [Value(number) for number in inputs]
    root = run(program, leaves)
    order = topological_order(root)
    place = {node: i for i, node in enumerate(order)}
    assert len(place) == len(order) and order[-1] is root and set(leaves) <= set(order)
    assert all(place[parent] < place[node] for node in order for parent, _ in node.parents)
    reached = {root}
    for node in reversed(order):
        assert node in reached, "a node that the root was not computed from"
        reached.update(parent for parent, _ in node.parents)


def test_a_diamond_is_walked_through_once():
    """Whoever walks each path on its own needs 2**60 visits here."""
    x = Value(1.0)
    y = x
    for _ in range(60):
        y = y + y
    assert len(topological_order(y)) == 61
    backward(y)
    assert x.grad == 2.0 ** 60


def test_a_deep_graph_is_no_recursion():
    x = Value(1.0)
    y = x
    for _ in range(20_000):
        y = y + 1
    backward(y)
    assert x.grad == 1


def test_a_number_used_twice_gets_both_shares():
    x = Value(3.0)
    y = x * x
    backward(y * y + y)
    assert (x.grad, y.grad) == (4 * 27 + 6, 2 * 9 + 1)


def test_gradients_add_up_over_calls_as_in_torch():
    """Those of intermediate nodes, too: a second call adds just what the first one did."""
    x = Value(2.0)
    y = x * x
    z = y * y
    for times in 1, 2, 3:
        backward(z)
        assert (x.grad, y.grad, z.grad) == (times * 32, times * 8, times * 1)
    backward(x * 5)
    assert (x.grad, y.grad) == (3 * 32 + 5, 3 * 8)


def test_shared_parts_may_be_walked_from_two_roots():
    x = Array([1.0, 2.0])
    shared = x * x
    backward(shared.sum())
    backward((shared * 3).sum())
    assert x.grad.tolist() == [8, 16]


# Arrays

def shapes_that_broadcast(draw):
    whole = draw(st.lists(st.integers(1, 3), min_size=0, max_size=3))
    return [tuple(1 if draw(st.booleans()) else length for length in whole[draw(st.integers(0, len(whole))):]) for _ in range(2)]


@quick
@given(st.data(), st.sampled_from(sorted(set(SCALAR))), st.integers(0, 2**32 - 1))
def test_broadcasting_has_torch_s_gradients(data, name, seed):
    shapes = shapes_that_broadcast(data.draw)
    rng = np.random.default_rng(seed)
    inputs = [rng.uniform(-2, 2, size=shape) for shape in shapes]
    weights = rng.uniform(-2, 2, size=np.broadcast_shapes(*shapes))

    def function(values):
        a, b = values
        result = SCALAR[name](a, b) * (a + b) + a * 0.5
        return (result * (torch.tensor(weights) if isinstance(a, torch.Tensor) else weights)).sum()
    assert_equal_to_torch(Array, lambda array: np.broadcast_to(array.grad, array.data.shape), inputs, function)


@quick
@given(st.data())
def test_the_matrix_product_has_torch_s_gradients(data):
    n, m, k = (data.draw(st.integers(1, 4)) for _ in range(3))
    leading = [tuple(shape) for shape in shapes_that_broadcast(data.draw)]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs = [rng.uniform(-2, 2, size=leading[0] + (n, m)), rng.uniform(-2, 2, size=leading[1] + (m, k))]
    assert_equal_to_torch(Array, lambda array: array.grad, inputs, lambda values: ((values[0] @ values[1]).tanh() ** 2).sum())


@quick
@given(st.data())
def test_sums_over_an_axis_have_torch_s_gradients(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    axis = data.draw(st.sampled_from([None, *range(-len(shape), len(shape))]))
    x = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).uniform(-2, 2, size=shape)

    def function(values):
        part = values[0].sum() if axis is None else values[0].sum(axis)
        return (part * part.tanh()).sum()
    assert_equal_to_torch(Array, lambda array: array.grad, [x], function)
    assert np.array_equal(sum_over(Array(x), axis).data, x.sum(axis=axis))


@quick
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_random_networks_have_torch_s_gradients(seed, kinds):
    """Layers one upon the other: products, biases, bends, sums, and the result of an earlier layer used again."""
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(4, 3)), *(rng.normal(size=shape) / 2 for _ in kinds for shape in ((3, 3), (3,)))]

    def function(values):
        x, *parameters = values
        first = x
        for i, kind in enumerate(kinds):
            x = x @ parameters[2 * i] + parameters[2 * i + 1]
            x = [x.tanh(), (x + 0.013).relu(), x, x + first, x / (x * x + 1).sum(0), (x * x + 1).log() * first][kind % 6]
        return ((x * 0.1) ** 2 + 1).log().sum()
    assert_equal_to_torch(Array, lambda array: array.grad, inputs, function)


@pytest.mark.parametrize("of, to", [((4, 3), (3,)), ((4, 3), (1, 3)), ((4, 3), (4, 1)), ((4, 3), ()), ((2, 4, 3), (4, 1)), ((4, 3), (4, 3)), ((1, 3), (1, 3)),
                                    ((2, 1, 3), (1, 1))])
def test_sum_to_undoes_a_broadcast(of, to):
    """⟨broadcast(x), g⟩ = ⟨x, sum_to(g)⟩: the definition of the transpose."""
    rng = np.random.default_rng(0)
    x, gradient = rng.normal(size=to), rng.normal(size=of)
    summed = sum_to(gradient, to)
    assert summed.shape == to and np.isclose((np.broadcast_to(x, of) * gradient).sum(), (x * summed).sum())


@pytest.mark.parametrize("function, gradient", [
    (lambda x: x.sum() + x.sum(), 2), (lambda x: x.sum() + 1, 1), (lambda x: 2 - x.sum(), -1), (lambda x: x.sum() * x.sum(), 12), (lambda x: 3 * x.sum(), 3)])
def test_a_sum_of_numbers_may_be_the_root(function, gradient):
    """The walk starts at an array without axes."""
    x = Array([[1.0, 2.0], [3.0, 0.0]])
    backward(function(x))
    assert np.array_equal(x.grad, np.full((2, 2), gradient))
    number = Array(3.0)
    backward(number * number + 2)
    assert number.grad == 6 and sum_to(1.0, ()).shape == ()


@pytest.mark.parametrize("product", [lambda x, other: x @ other, lambda x, other: x @ other.tolist(), lambda x, other: other @ x,
                                     lambda x, other: matrix_product(other, x)])
def test_a_matrix_product_takes_a_plain_array_on_either_side(product):
    rng = np.random.default_rng(0)
    x, other, weights = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    array = Array(x)
    result = product(array, other)
    assert isinstance(result, Array) and np.allclose(result.data, product(x, other).data if isinstance(product(x, other), Array) else product(x, other))
    backward((result * weights).sum())
    check_gradient(lambda x: (product(Array(x), other).data * weights).sum(), x, array.grad)


def test_an_array_is_a_copy():
    """What is done to the reader's array afterwards changes nothing."""
    numbers = np.array([1.0, 2.0])
    array = Array(numbers)
    numbers[0] = 5
    assert array.data.tolist() == [1, 2] and Array([1, 2]).data.dtype == float


# Nudging

def cubes(x):
    return float((np.asarray(x) ** 3).sum())


@quick
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5))
def test_nudging_finds_the_gradient(x):
    x = np.array(x)
    before = copy.deepcopy(x)
    np.testing.assert_allclose(numerical_gradient(cubes, x), 3 * x ** 2, rtol=1e-6, atol=1e-7)
    check_gradient(cubes, x, 3 * x ** 2)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 2)])
def test_nudging_keeps_the_shape_and_hands_over_arrays_of_it(shape):
    seen = set()

    def f(x):
        seen.add((x.shape, x.dtype))
        return cubes(x)
    x = np.full(shape, 2)
    assert np.allclose(numerical_gradient(f, x), np.full(shape, 12.0)) and numerical_gradient(f, x).shape == shape
    assert seen == {(shape, np.dtype(float))}


def test_the_step_is_central_and_as_long_as_asked():
    places = []
    numerical_gradient(lambda x: places.append(float(x[0])) or 0.0, [1.0], step=0.25)
    assert sorted(places) == [0.75, 1.25]
    places.clear()
    for x in 0.5, -1000.0:
        places.clear()
        numerical_gradient(lambda x: places.append(float(x[0])) or 0.0, [x])
        assert np.isclose(max(places) - x, np.finfo(float).eps ** (1 / 3), rtol=1e-3)


def test_what_f_does_to_its_argument_stays_there():
    def spoil(x):
        value = cubes(x)
        x[:] = 0
        return value
    assert np.allclose(numerical_gradient(spoil, [1.0, 2.0]), [3, 12])


@pytest.mark.parametrize("wrong, place", [
    ([3, 12.001, 27], r"\(1,\) the gradient is 12.001"), ([3, 12, -27], r"\(2,\)"), ([0, 0, 0], r"\(2,\)"), ([3.01, 12, 27], r"\(0,\) the gradient is 3.01"),
    ([3, np.nan, 27], r"\(1,\) the gradient is nan"), ([1, 4, 9], r"\(2,\) the gradient is 9, by nudging 27")])
def test_a_wrong_gradient_is_named(wrong, place):
    with pytest.raises(AssertionError, match=place):
        check_gradient(cubes, [1.0, 2.0, 3.0], wrong)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_no_gradient(wrong, place):
    """An infinite entry makes no infinite tolerance."""
    gradient = np.array([3.0, 12])
    gradient[place] = wrong
    with pytest.raises(AssertionError, match=rf"\({place},\)"):
        check_gradient(cubes, [1.0, 2.0], gradient)
    with pytest.raises(AssertionError):
        check_gradient(lambda x: wrong, [1.0, 2.0], [3, 12])


@pytest.mark.parametrize("x", [1e2, 1e3, 1e4, 1e6])
def test_a_right_gradient_of_a_function_that_bends_far_from_zero_passes(x):
    """At the zeros of the sine, too, where what is rounded is its argument, and not its value."""
    def f(x):
        return np.sin(1.1 * x[0])
    first = round(1.1 * x / math.pi)
    for place in [x + phase for phase in np.linspace(0, 6, 25)] + [(first + i) * math.pi / 1.1 for i in range(25)]:
        right = 1.1 * np.cos(1.1 * place)
        check_gradient(f, [place], [right])
        with pytest.raises(AssertionError):
            check_gradient(f, [place], [right + 1e-3])


def test_the_tolerance_is_of_the_largest_entry():
    good = np.array([3.0, 12, 27])
    check_gradient(cubes, [1.0, 2.0, 3.0], good + 20e-6)
    with pytest.raises(AssertionError):
        check_gradient(cubes, [1.0, 2.0, 3.0], good + 40e-6)
    check_gradient(cubes, [1.0, 2.0, 3.0], good + 40e-6, tolerance=1e-5)
    assert np.isclose(check_gradient(cubes, [1.0, 2.0, 3.0], good + 20e-6), 20e-6, rtol=1e-2)


def test_small_gradients_are_checked_as_closely_as_large_ones():
    """A gradient of 1e-3 that is wrong by a thousandth is wrong, and a gradient of 0 is not reported for its rounding."""
    small = lambda x: 1e-4 * cubes(x)  # noqa: E731
    check_gradient(small, [1.0, 2.0], [3e-4, 12e-4])
    with pytest.raises(AssertionError):
        check_gradient(small, [1.0, 2.0], [3.005e-4, 12e-4])
    check_gradient(lambda x: 1000.0 + 0 * cubes(x), [1.0, 2.0], [0, 0])


def test_it_finds_what_torch_s_own_check_finds():
    """gradcheck and ours agree on a right backward and on one with a bug."""
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return (x * x).sum()

        @staticmethod
        def backward(context, gradient):
            return gradient * context.saved_tensors[0] * factor
    for factor, right in (2, True), (1, False):
        x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(Doubled.apply, (x,), raise_exception=False) == right
        [gradient] = torch.autograd.grad(Doubled.apply(x), x)
        try:
            check_gradient(lambda x: float((x * x).sum()), x.detach().numpy(), gradient.numpy())
        except AssertionError:
            assert not right
        else:
            assert right
