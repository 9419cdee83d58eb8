"""The experiments with known answers: eq. 19 and the alignment theorems."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from algos.diffusion import Chain
from bench.reproduce import alignment, boltzmann, gridworld
from bench.reproduce.boltzmann import CRITICS, Exact
from reports import html


@pytest.mark.parametrize("name", CRITICS)
def test_a_critic_s_slope_is_its_derivative(name):
    a, step = np.linspace(-0.9, 0.9, 7), 1e-6
    critic = CRITICS[name]
    numeric = (critic.value(a + step) - critic.value(a - step)) / (2 * step)
    np.testing.assert_allclose(critic.slope(a), numeric, atol=1e-6)


@pytest.mark.parametrize(("name", "alpha"), [("quadratic", 5.0), ("linear", 2.0), ("two modes", 2.0)])
def test_langevin_dynamics_reach_the_boltzmann_distribution(name, alpha):
    critic = CRITICS[name]
    actions = boltzmann.langevin(critic, alpha, 8000, np.random.default_rng(0))
    assert boltzmann.divergence(actions, critic, alpha) < 0.01
    assert boltzmann.divergence(actions, critic, 3 * alpha) > 0.05  # the measure tells temperatures apart
    assert boltzmann.implied_alpha(actions, critic) == pytest.approx(alpha, rel=0.1)


def test_the_exact_denoiser_reaches_it_too_and_qsm_s_target_does_not():
    critic, scale = CRITICS["two modes"], 5.0
    found = {
        name: boltzmann.divergence(boltzmann.draw_chain(chain, Exact(eps, 50), 5000), critic, scale)
        for name, (chain, eps) in boltzmann.samplers(critic, scale, 50).items()
    }
    assert found["exact denoiser"] < 0.03
    assert found["exact denoiser, x0 clipped"] < 0.06
    assert found["QSM"] > 1


def test_the_denoiser_of_a_flat_critic_is_that_of_the_uniform_and_of_a_sharp_one_points_to_it():
    """Closed forms: without a critic, E[a | x] is the mean of a truncated normal; with a point mass at c, it is c."""
    from scipy.stats import truncnorm

    chain, t, x = Chain("vp", 5), 2, np.array([-0.8, 0.1, 1.5])
    bar = chain.alpha_bar[t]
    centre, width = x / np.sqrt(bar), np.sqrt((1 - bar) / bar)
    mean = truncnorm.mean((-1 - centre) / width, (1 - centre) / width, loc=centre, scale=width)
    flat = boltzmann.denoiser(CRITICS["linear"], 0.0, chain)
    np.testing.assert_allclose(flat(x, t), (x - np.sqrt(bar) * mean) / np.sqrt(1 - bar), atol=2e-3)
    sharp = boltzmann.denoiser(CRITICS["quadratic"], 1e5, chain)
    np.testing.assert_allclose(sharp(x, t), (x - np.sqrt(bar) * 0.3) / np.sqrt(1 - bar), atol=2e-3)


def test_the_last_step_of_qsm_s_chain_overshoots_as_the_closed_form_says():
    """Q = -k (a - 0.3)^2 / 2: eps = M_q k (x - 0.3), so one step maps x - 0.3 onto a line whose slope is 1.115 - 0.494 M_q."""
    chain, scale = Chain("vp", 5), 3.0
    predictor = Exact(boltzmann.matched(CRITICS["quadratic"], scale), 5)
    x = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
    ends = chain.mean(x, predictor.predict(x, torch.tensor(0)), 0)
    assert float((ends[1] - ends[0]) / 0.1) == pytest.approx(1.1152 - 0.4935 * scale, abs=2e-3)


def test_a_network_trained_by_qsm_s_loss_is_the_exact_minimiser():
    agent = boltzmann.train(CRITICS["linear"], 0.5, 3, updates=150)
    x = torch.linspace(-1, 1, 9)[:, None]
    for t in range(3):
        eps = agent.predictor(torch.ones(9, 1), x, torch.full((9,), t)).detach()
        torch.testing.assert_close(eps, torch.full_like(eps, -0.25), atol=0.06, rtol=0)


def test_samplers_that_share_no_action_are_at_a_distance_of_one(monkeypatch):
    """Total variation: 0 of equal ones, 1 at most."""
    monkeypatch.setattr(boltzmann, "train", lambda *words: SimpleNamespace(predictor="network"))
    monkeypatch.setattr(boltzmann, "network_error", lambda *words: 0.0)
    for exact, distance in ((0.9, 1.0), (-0.9, 0.0)):
        drawn = lambda chain, predictor, n, exact=exact: np.full(n, -0.9 if predictor == "network" else exact)  # noqa: E731
        monkeypatch.setattr(boltzmann, "draw_chain", drawn)
        assert boltzmann.against_training("linear", 1.0, 5, boltzmann.Budget(samples=50))["distance"] == pytest.approx(distance)


def test_the_error_of_a_network_is_relative_to_the_exact_minimiser_at_the_noised_actions():
    critic, chain = CRITICS["two modes"], Chain("vp", 3)
    wanted = boltzmann.matched(critic, 2.0)
    for factor in (1.0, 1.5):
        network = lambda obs, x, t, factor=factor: torch.from_numpy(factor * wanted(x.double().numpy(), t))  # noqa: E731
        assert boltzmann.network_error(network, critic, 2.0, chain) == pytest.approx(factor - 1, abs=1e-5)


# -- alignment -----------------------------------------------------------------------------------------------------------


def test_the_optimum_found_without_the_gradient_is_riccati_s_and_aligned():
    best = alignment.direct_search(alignment.TURNED)
    np.testing.assert_allclose(best, alignment.riccati()[2:] / alignment.PRICE, atol=1e-4)
    points = np.random.default_rng(1).normal(size=(500, 4))
    assert alignment.cosines(best, alignment.PRICE, points).min() > 1 - 1e-6
    assert np.median(alignment.cosines(alignment.TURNED, 0.0, points)) < 0.9


def test_the_value_matrix_is_the_integral_along_the_flow():
    """Against Runge-Kutta: without a perturbation the rolled-out return is the quadratic form."""
    origins = np.random.default_rng(2).normal(size=(20, 4))
    rolled = alignment.bumped_values(alignment.TURNED, origins, 0.0, time=1.0, dt=0.01)
    matrix = alignment.value_matrix(alignment.TURNED, 0.0)
    np.testing.assert_allclose(rolled, -0.5 * ((origins @ matrix) * origins).sum(1), rtol=1e-6)
    with pytest.raises(ValueError, match="not stable"):
        alignment.value_matrix(np.hstack([np.zeros((2, 2)), -np.eye(2)]))


def test_the_perturbation_of_eq_37_improves_as_its_radius():
    points = np.random.default_rng(3).normal(size=(200, 4))
    away = points[alignment.cosines(alignment.TURNED, 0.0, points) < 0.9][:20]
    before = alignment.bumped_values(alignment.TURNED, away, 0.0, time=1.0)
    gain = alignment.bumped_values(alignment.TURNED, away, 0.1, time=1.0) - before
    assert (gain > 0).all()
    smaller = alignment.bumped_values(alignment.TURNED, away, 0.05, time=1.0) - before
    np.testing.assert_allclose(gain / smaller, 2, rtol=0.25)  # time in the ball, and so the gain, goes with the radius


def test_repeated_matching_converges_quadratically_and_never_loses():
    found, optimum = alignment.matching(alignment.TURNED), alignment.riccati()
    distance = [np.abs(p - optimum).max() for p in found]
    assert distance[-1] < 1e-10
    assert all(np.linalg.eigvalsh(a - b).min() > -1e-10 for a, b in itertools.pairwise(found))


def test_arrows_and_names_on_a_map_stay_light_where_the_paper_turns_transparent():
    mdp, budget = gridworld.grid(), gridworld.Budget(alphas=(1.0,))
    value, entropy = gridworld.maps(mdp, budget, {"Q-score matching": [gridworld.q_score_matching(mdp, 1.0)]})
    light = [html.themed(figure.svg).count(f"fill: {html.WHITE}") for figure in (value, entropy)]
    assert light == [gridworld.SIZE**2 + 2, 2]  # an arrow in each cell; G and T
