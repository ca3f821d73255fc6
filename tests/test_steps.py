"""The optimisers held against torch.optim step by step, the schedules against torch's, and the noise scale against gradients whose noise is known."""
import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from practitioner.steps import (SGD, Adam, AdamW, Joint, Muon, clip_gradients, constant, cosine, linear, newton_schulz, noise_from_lengths,
                                noise_scale, QUINTIC, range_test, wsd)

quick = settings(max_examples=40, deadline=None, derandomize=True)
rates, decays, shares = st.floats(1e-4, 1), st.sampled_from([0.0, 0.01, 0.3]), st.floats(0, 0.999)
seeds, shapes = st.integers(0, 10**6), st.lists(st.sampled_from([(), (3,), (4, 2), (2, 5), (3, 3), (2, 1, 2)]), min_size=1, max_size=3)
matrices = st.lists(st.sampled_from([(1, 1), (4, 2), (2, 5), (3, 3), (1, 6)]), min_size=1, max_size=3)


def twins(shapes, seed, dtype=torch.float64):
    """Two equal lists of parameters, and a generator for what else is drawn."""
    rng = torch.Generator().manual_seed(seed)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in shapes]
    return ours, [torch.nn.Parameter(p.detach().clone()) for p in ours], rng


def give_gradients(ours, theirs, rng, scale=1.0, leave_out=()):
    for i, (p, q) in enumerate(zip(ours, theirs)):
        p.grad = None if i in leave_out else scale * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        q.grad = None if i in leave_out else p.grad.clone()


def stay_equal(make_ours, make_theirs, shapes, seed, dtype=torch.float64, tolerance=1e-9, steps=6):
    """After each of some steps, with gradients of very different sizes and some missing, all parameters agree."""
    ours, theirs, rng = twins(shapes, seed, dtype)
    one, other = make_ours(ours), make_theirs(theirs)
    started = [p.detach().clone() for p in ours]
    for step in range(steps):
        give_gradients(ours, theirs, rng, scale=10.0 ** (step % 4 - 2), leave_out=[1] if step in (0, 3) else [])
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        one.step()
        other.step()
        for p, q, g in zip(ours, theirs, kept):
            assert torch.allclose(p, q, rtol=tolerance, atol=tolerance)
            assert p.grad is g is None or torch.equal(p.grad, g), "a step leaves the gradient as it is"
    assert not torch.equal(ours[0], started[0])


@quick
@given(shapes, seeds, rates, st.sampled_from([0.0, 0.5, 0.9, 0.99]), decays)
def test_sgd_is_torch_s(shapes, seed, lr, momentum, decay):
    options = dict(lr=lr, momentum=momentum, weight_decay=decay)
    stay_equal(lambda p: SGD(p, **options), lambda p: torch.optim.SGD(p, **options), shapes, seed)


@pytest.mark.parametrize("ours", [Adam, AdamW])
@quick
@given(shapes, seeds, rates, st.tuples(shares, shares), st.sampled_from([1e-8, 1e-3, 1.0]), decays)
def test_adam_and_adamw_are_torch_s(ours, shapes, seed, lr, betas, eps, decay):
    options = dict(lr=lr, betas=betas, eps=eps, weight_decay=decay)
    stay_equal(lambda p: ours(p, **options), lambda p: getattr(torch.optim, ours.__name__)(p, **options), shapes, seed)


@pytest.mark.parametrize("ours, options", [(SGD, dict(lr=0.1, momentum=0.9)), (Adam, {}), (AdamW, {})])
def test_in_single_precision_too_and_with_the_usual_settings(ours, options):
    stay_equal(lambda p: ours(p, **options), lambda p: getattr(torch.optim, ours.__name__)(p, **options), [(4, 2), (3,)], 0, torch.float32, 1e-6, 30)


has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with PyTorch 2.9")


@has_muon
@quick
@given(matrices, seeds, rates, st.sampled_from([0.0, 0.5, 0.95]), decays, st.booleans(), st.sampled_from([None, "original", "match_rms_adamw"]),
       st.integers(1, 6))
def test_muon_is_torch_s(shapes, seed, lr, momentum, decay, nesterov, adjust, ns_steps):
    options = dict(lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov, adjust_lr_fn=adjust, ns_steps=ns_steps)
    for dtype in torch.float64, torch.float32:
        stay_equal(lambda p: Muon(p, **options), lambda p: torch.optim.Muon(p, **options), shapes, seed, dtype, 1e-7)


@has_muon
def test_muon_s_usual_settings_are_torch_s():
    stay_equal(Muon, torch.optim.Muon, [(4, 2), (2, 5)], 0, torch.float32, 1e-7, 30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_muon_iterates_in_the_type_it_is_told(dtype):
    ours, theirs, rng = twins([(5, 3)], 0)
    give_gradients(ours, theirs, rng)
    before = ours[0].detach().clone()
    Muon(ours, lr=0.1, weight_decay=0.0, dtype=dtype).step()
    step = 0.1 * math.sqrt(5 / 3) * newton_schulz(ours[0].grad, dtype=getattr(torch, dtype)).double()
    assert torch.allclose(before - ours[0], step, rtol=0, atol=1e-12 if dtype == "float64" else 1e-6)
    assert not torch.allclose(step, 0.1 * math.sqrt(5 / 3) * newton_schulz(ours[0].grad).double(), rtol=0, atol=1e-5)


def test_groups_keep_their_own_settings():
    ours, theirs, rng = twins([(3,), (2, 2)], 1)
    def groups(params):
        return [{"params": params[:1], "lr": 0.5, "weight_decay": 0.0}, {"params": params[1:]}]
    for make, like in ((SGD, torch.optim.SGD), (AdamW, torch.optim.AdamW)):
        one, other = make(groups(ours), lr=0.01, weight_decay=0.2), like(groups(theirs), lr=0.01, weight_decay=0.2)
        for step in range(4):
            give_gradients(ours, theirs, rng)
            for optimizer in one, other:
                optimizer.param_groups[1]["lr"] = 0.01 * step  # as a schedule does
                optimizer.step()
            assert all(torch.allclose(p, q, rtol=1e-9, atol=1e-12) for p, q in zip(ours, theirs))


OPTIMISERS = {"SGD": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), "Adam": lambda p: Adam(p, 0.1), "AdamW": lambda p: AdamW(p, 0.1),
              "Muon": lambda p: Muon(p, 0.1, dtype="float32"), "Joint": lambda p: Joint(Muon(p[1:2], 0.1), AdamW(p[2:], 0.1), SGD(p[:1], 0.1, 0.5))}


@pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_saved_state_goes_on_to_the_bit(make):
    ours, theirs, rng = twins([(3, 2), (2, 4), (2, 2)], 2, torch.float32)
    one = make(ours)
    for _ in range(3):
        give_gradients(ours, theirs, rng)
        one.step()
    saved = copy.deepcopy(one.state_dict())
    assert sorted(saved) == ["param_groups", "state"] and sorted(saved["state"]) == [0, 1, 2]
    assert sorted(i for group in saved["param_groups"] for i in group["params"]) == [0, 1, 2]
    with torch.no_grad():
        for p, q in zip(ours, theirs):
            q.copy_(p)
    other = make(theirs)
    other.load_state_dict(saved)
    for _ in range(3):
        give_gradients(ours, theirs, rng)
        one.step()
        other.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs))


def test_joint_is_its_parts():
    ours, theirs, rng = twins([(3, 2), (4,)], 3)
    joint = Joint(Muon(ours[:1], 0.1), AdamW(ours[1:], 0.3))
    parts = Muon(theirs[:1], 0.05), AdamW(theirs[1:], 0.15)
    assert [group["lr"] for group in joint.param_groups] == [0.1, 0.3]
    for group in joint.param_groups:
        group["lr"] /= 2
    for _ in range(3):
        give_gradients(ours, theirs, rng)
        joint.step()
        [part.step() for part in parts]
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs))
    joint.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in ours)
    joint.zero_grad()
    assert all(p.grad is None for p in ours)


def test_a_fresh_joint_can_be_saved_and_loaded():
    ours, theirs, _ = twins([(3, 2), (4,)], 3)
    saved = Joint(SGD(ours[:1], 0.1), SGD(ours[1:], 0.2)).state_dict()
    other = Joint(SGD(theirs[:1], 1.0), SGD(theirs[1:], 1.0))
    other.load_state_dict(saved)
    assert saved["state"] == {} and [group["lr"] for group in other.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize("shares", [lambda p: [p], lambda p: [p[:1], p[1:2], p[2:]], lambda p: [p[:2], p[2:]], lambda p: [p[:1], p[1:2]]],
                         ids=["one group", "three groups", "shared otherwise", "one parameter fewer"])
def test_a_joint_refuses_a_state_of_other_groups(shares):
    ours, theirs, _ = twins([(3,), (4,), (5,)], 3)
    saved = Joint(*(SGD(group, 0.1) for group in shares(ours))).state_dict()
    other = Joint(SGD(theirs[:1], 1.0), SGD(theirs[1:], 1.0))
    with pytest.raises(ValueError, match=r"the saved groups have .* these have \[1, 2\]"):
        other.load_state_dict(saved)
    assert [group["lr"] for group in other.param_groups] == [1.0, 1.0], "nothing is loaded"


def test_a_parameter_has_one_optimiser():
    ours, _, _ = twins([(3,), (4,)], 0)
    with pytest.raises(ValueError, match="1 parameters are trained by two"):
        Joint(SGD(ours, 0.1), AdamW(ours[1:]))


@pytest.mark.parametrize("decay", [1e-4, 0.1, 3.0])
def test_a_penalty_under_adam_pulls_alike_whatever_its_strength_and_a_decoupled_one_does_not(decay):
    def left(make):
        p = torch.nn.Parameter(torch.tensor([1.0, -0.5], dtype=torch.float64))
        optimizer = make([p], lr=0.001, weight_decay=decay, eps=1e-12)
        for _ in range(50):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        return p.detach()
    assert torch.allclose(left(Adam), left(lambda p, **options: Adam(p, **options | {"weight_decay": 1.0})), rtol=1e-6)
    assert torch.allclose(left(AdamW), torch.tensor([1.0, -0.5]).double() * (1 - 0.001 * decay) ** 50, rtol=1e-12)


@pytest.mark.parametrize("make, named", [
    (lambda p: SGD(p, -0.1), "lr is at least 0, not -0.1"), (lambda p: SGD(p, math.nan), "not nan"),
    (lambda p: SGD(p, 0.1, momentum=1.0), "momentum is at least 0 and below 1, not 1.0"), (lambda p: SGD(p, 0.1, weight_decay=-1), "weight_decay"),
    (lambda p: Adam(p, betas=(1.0, 0.9)), "beta1 is at least 0 and below 1, not 1.0"), (lambda p: Adam(p, betas=(0.9, -0.1)), "beta2"),
    (lambda p: AdamW(p, eps=-1e-8), "eps is at least 0"), (lambda p: AdamW(p, weight_decay=-0.1), "weight_decay is at least 0"),
    (lambda p: Muon(p, momentum=1), "momentum"), (lambda p: Muon(p, adjust_lr_fn="none"), "not 'none'"),
    (lambda p: Muon(p, ns_steps=-1), "ns_steps"), (lambda p: Muon(p, dtype="float23"), "not 'float23'"), (lambda p: Muon(p, dtype="int64"), "'int64'"),
    (lambda p: Muon(p, dtype=torch.float32), "not torch.float32"), (lambda p: Muon(p, dtype="nn"), "not 'nn'"), (lambda p: Muon([torch.zeros(3, requires_grad=True)]), r"not for a shape \(3,\)"),
])
def test_settings_out_of_bounds_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make([torch.zeros(2, 2, requires_grad=True)])


# Newton and Schulz

@quick
@given(seeds, st.integers(1, 7), st.integers(1, 7), st.integers(0, 6))
def test_newton_schulz_moves_the_singular_values_alone(seed, n, m, steps):
    matrix = torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    U, sigma, V = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = QUINTIC
    sigma = sigma / sigma.norm()
    for _ in range(steps):
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    assert torch.allclose(newton_schulz(matrix, steps, torch.float64), U @ torch.diag(sigma) @ V, rtol=0, atol=1e-9)


def test_newton_schulz_brings_them_near_one():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    for dtype in torch.float32, torch.bfloat16:
        after = newton_schulz(matrix, dtype=dtype)
        assert after.dtype == dtype and after.shape == (20, 30)
        sigma = torch.linalg.svdvals(after.double())
        assert 0.6 < sigma.min() and sigma.max() < 1.25
    assert (newton_schulz(torch.zeros(3, 2)) == 0).all()
    with pytest.raises(ValueError, match=r"not the shape \(3,\)"):
        newton_schulz(torch.zeros(3))


# Schedules

SCHEDULES = {"linear": linear, "cosine": cosine, "wsd": lambda steps, warmup, floor=0.0: wsd(steps, warmup, max((steps - warmup) // 3, 1), floor)}
every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
@quick
@given(st.integers(1, 60), st.data())
def test_a_schedule_climbs_in_a_line_and_falls_to_its_floor(make, steps, data):
    warmup, floor = data.draw(st.integers(0, steps - 1)), data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    schedule = make(steps, warmup, floor=floor)
    factors = [schedule(step) for step in range(steps + 3)]
    assert np.allclose(factors[:warmup], (np.arange(warmup) + 1) / max(warmup, 1)) and math.isclose(factors[warmup], 1)
    falling = factors[warmup:]
    assert all(high >= low - 1e-12 for high, low in zip(falling, falling[1:]))
    assert np.allclose(factors[steps:], floor) and all(0 < factor <= 1 for factor in factors[:steps])
    assert factors[steps - 1] > floor or floor == 1, "the last step is not yet at the floor"
    assert constant(warmup)(steps + 10) == 1 and [constant(warmup)(step) for step in range(warmup)] == factors[:warmup]


def torch_factors(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, factors = make(optimizer), []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("steps, floor", [(1, 0.0), (7, 0.0), (50, 0.1)])
def test_decays_are_torch_s(steps, floor):
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps, eta_min=floor), steps)
    assert np.allclose([cosine(steps, floor=floor)(step) for step in range(steps)], theirs)
    theirs = torch_factors(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, max(floor, 1e-9), steps), steps)
    assert np.allclose([linear(steps, floor=floor)(step) for step in range(steps)], theirs, atol=1e-8)


def test_wsd_by_hand():
    assert np.allclose([wsd(10, 2, 4)(step) for step in range(11)], [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert np.allclose([wsd(4, 0, 4, floor=0.5)(step) for step in range(5)], [1, 0.875, 0.75, 0.625, 0.5])


@pytest.mark.parametrize("make", [lambda: linear(0), lambda: linear(10, 10), lambda: cosine(10, -1), lambda: cosine(10, floor=1.1),
                                  lambda: linear(10, floor=-0.1), lambda: wsd(10, 5, 6), lambda: wsd(10, 2, 0), lambda: constant(-1),
                                  lambda: constant()(-1), lambda: cosine(10)(-1)])
def test_schedules_that_cannot_be_are_refused(make):
    with pytest.raises(ValueError, match="not|no step"):
        make()


# The range test

class Bowl(torch.nn.Module):
    """The loss of a batch is its mean times θ²."""
    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))


def bowl_loss(model, batch):
    return (batch.mean() * model.theta ** 2).sum()


def ones(step):
    return torch.ones(2, dtype=torch.float64)


def test_the_range_test_by_hand():
    """On θ² a step of SGD multiplies θ by 1 − 2 η."""
    model = Bowl()
    factors, losses = range_test(model, SGD(model.parameters(), lr=0.5), ones, 0.01, 1.0, steps=9, loss=bowl_loss)
    assert np.allclose(factors, 0.01 * 10 ** (np.arange(9) / 4))
    theta = 2 * np.cumprod(np.append(1, 1 - 2 * 0.5 * factors[:-1]))
    assert np.allclose(losses, theta ** 2)


def test_the_range_test_stops_at_the_explosion_and_leaves_all_as_it_was():
    model = Bowl()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.9)
    model.theta.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    model.theta.grad = None
    before = model.theta.item(), optimizer.state[model.theta]["v"].item(), optimizer.param_groups[0]["lr"]
    factors, losses = range_test(model, optimizer, ones, 0.001, 1000, steps=50, loss=bowl_loss)
    assert 5 < len(losses) == len(factors) < 50
    assert losses[-1] > 2 * losses[0] and (losses[:-1] <= 2 * losses[0]).all()
    assert (model.theta.item(), optimizer.state[model.theta]["v"].item(), optimizer.param_groups[0]["lr"]) == before and model.theta.grad is None


def test_the_range_test_keeps_the_proportions_of_groups_and_asks_for_each_step():
    seen, model = [], Bowl()
    other = torch.nn.Parameter(torch.zeros(1))
    optimizer = Joint(SGD(model.parameters(), 0.1), SGD([other], 0.4))

    def batches(step):
        seen.append(step)
        return ones(step)

    def watched(trained, batch):
        return bowl_loss(trained, batch)
    factors, losses = range_test(model, optimizer, batches, 0.01, 1, 4, watched)
    theta = 2 * np.cumprod(np.append(1, 1 - 2 * 0.1 * factors[:-1]))
    assert seen == [0, 1, 2, 3] and np.allclose(losses, theta ** 2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.4]


def test_the_range_test_ends_where_the_loss_is_no_number():
    model = Bowl()
    factors, losses = range_test(model, SGD(model.parameters(), 0.1), lambda step: ones(step) * (math.nan if step == 3 else 1), loss=bowl_loss)
    assert len(factors) == len(losses) == 4 and math.isnan(losses[3])


@pytest.mark.parametrize("low, high, steps", [(0, 1, 10), (1, 1, 10), (1, math.inf, 10), (-1, 1, 10), (0.1, 1, 1)])
def test_range_tests_that_cannot_be_are_refused(low, high, steps):
    model = Bowl()
    with pytest.raises(ValueError, match=f"not {low}, {high} and {steps}"):
        range_test(model, SGD(model.parameters(), 0.1), ones, low, high, steps, bowl_loss)


# Clipping

@quick
@given(shapes, seeds, st.floats(1e-3, 100))
def test_clipping_is_torch_s(shapes, seed, limit):
    ours, theirs, rng = twins(shapes, seed)
    give_gradients(ours, theirs, rng, scale=5.0)
    before = [p.grad.clone() for p in ours]
    length = clip_gradients(ours, limit)
    assert math.isclose(length, torch.nn.utils.clip_grad_norm_(theirs, limit).item(), rel_tol=1e-9)
    assert all(torch.allclose(p.grad, q.grad, rtol=1e-4) for p, q in zip(ours, theirs))  # torch divides by the length + 1e-6
    after = math.sqrt(sum(p.grad.square().sum().item() for p in ours))
    assert after <= limit * (1 + 1e-9) and math.isclose(after, min(length, limit), rel_tol=1e-9)
    if length <= limit:
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, before))


def test_clipping_passes_over_what_has_no_gradient():
    ours, theirs, rng = twins([(3,), (2, 2)], 0)
    give_gradients(ours, theirs, rng, leave_out=[0])
    length = clip_gradients(iter(ours))  # an iterator, as model.parameters() is, and no limit
    assert math.isclose(length, ours[1].grad.norm().item()) and torch.equal(ours[1].grad, theirs[1].grad) and ours[0].grad is None
    assert clip_gradients([torch.nn.Parameter(torch.ones(2))], 1.0) == 0
    for wrong in 0, -1, math.nan:
        with pytest.raises(ValueError, match=f"not {wrong}"):
            clip_gradients(ours, wrong)


@pytest.mark.parametrize("dtype, value, rtol", [(torch.float16, 300.0, 1e-3), (torch.bfloat16, 1e15, 1e-2), (torch.float64, 1e150, 1e-12)])
def test_clipping_large_gradients_in_any_precision(dtype, value, rtol):
    """300² is infinite in half precision, and 1e300 in single."""
    p = torch.nn.Parameter(torch.zeros(4, dtype=dtype))
    p.grad = torch.full((4,), value, dtype=dtype)
    assert math.isclose(clip_gradients([p], 1.0), 2 * value, rel_tol=rtol)
    assert p.grad.dtype == dtype and torch.allclose(p.grad.double(), torch.full((4,), 0.5).double(), rtol=rtol)


def test_clipping_takes_one_tensor_none_at_all_and_a_mixture():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.full((2, 2), 3.0)
    assert clip_gradients(p, 3.0) == 6 and torch.equal(p.grad, torch.full((2, 2), 1.5))
    assert clip_gradients([], 1.0) == 0.0 and isinstance(clip_gradients(iter([])), float)
    q = torch.nn.Parameter(torch.zeros(1, dtype=torch.float16))
    q.grad = torch.full((1,), 4.0, dtype=torch.float16)
    assert math.isclose(clip_gradients([p, q], 2.5), 5.0) and q.grad.item() == 2 and torch.equal(p.grad, torch.full((2, 2), 0.75))


# The noise scale

class Plane(torch.nn.Module):
    """The loss of a batch is θ · its mean: the gradient is the batch's mean."""
    def __init__(self, size):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))


def plane_loss(model, batch):
    return model.theta @ batch.mean(0)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_the_noise_scale_of_gradients_with_known_noise(batch_size, strength):
    """Examples N(μ, σ²) in 50 dimensions: tr Σ / |μ|² = 50 σ² / |μ|², whatever the size of the batches."""
    rng = torch.Generator().manual_seed(0)
    mean = torch.randn(50, generator=rng, dtype=torch.float64)
    model = Plane(50)

    def batches(i):
        return mean + strength * torch.randn(batch_size, 50, generator=rng, dtype=torch.float64)
    measured = noise_scale(model, batches, 800, batch_size, plane_loss)
    assert math.isclose(measured, 50 * strength**2 / mean.square().sum().item(), rel_tol=0.1)
    assert model.theta.grad is None


def test_without_noise_it_is_zero_and_without_signal_infinite():
    model = Plane(2)
    assert math.isclose(noise_scale(model, lambda i: torch.tensor([[3.0, 4.0]]).double(), 5, 1, plane_loss), 0, abs_tol=1e-12)
    assert noise_scale(model, lambda i: torch.tensor([[3.0, 4.0]]).double() * (-1) ** i, 2, 1, plane_loss) == math.inf


@quick
@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 50), st.integers(1, 50))
def test_two_lengths_give_noise_and_signal(noise, signal, small, more):
    large = small + more
    found = noise_from_lengths(signal + noise / small, signal + noise / large, small, large)
    assert np.allclose(found, (noise, signal), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_no_numbers_have_no_noise_scale(value):
    with pytest.raises(ValueError, match="not finite"):
        noise_scale(Plane(2), lambda i: torch.tensor([[3.0, value if i == 1 else 4.0]]).double(), 3, 1, plane_loss)


def test_one_batch_has_no_noise_scale():
    with pytest.raises(ValueError, match="2 batches or more, not 1"):
        noise_scale(Plane(2), lambda i: torch.ones(1, 2).double(), 1, 1, plane_loss)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (0, 4), (-1, 4)])
def test_batch_sizes_that_tell_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match=f"not {sizes[0]} and {sizes[1]}"):
        noise_from_lengths(1.0, 0.5, *sizes)
