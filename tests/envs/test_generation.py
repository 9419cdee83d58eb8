"""Generation environments: the contract of a batch, the sampler's steps, the estimator, and the law of the best policy."""

import dataclasses
import math

import numpy as np
import pytest

import envs
from envs import generation
from envs.generation import Config, data
from envs.generation.estimator import RatioEstimator
from envs.generation.truth import Truth
from envs.spec import Dynamics

CONSTANT = Dynamics(1.0, 1.0, 1.0, 2.5, 50, "sde")
VARYING = {"f_start": 0.2, "f_end": 3.0, "time": 1.6}  # f and g that change along the way
VP = Dynamics(0.2, 3.0, 1.5, 1.6, 50, "sde")


def make(name="gmm1d", copies=3, seed=7, **settings):
    return envs.make(f"generation/{name}", seed, copies, **settings)


def play(env, policy, episodes=1):
    """(final observations [N, obs_dim], summed rewards [N]) of whole episodes; policy(t, y) -> actions."""
    obs, total, ended = env.reset()[0], np.zeros(env.num_envs), 0
    while ended < episodes:
        obs, reward, terminated, _, info = env.step(policy(float(obs[0, 0]), obs[:, 1:].astype(np.float64)))
        total, ended = total + reward, ended + int(terminated.all())
    return info["final_obs"], total


def best_policy(known):
    """mu* between the points of a grid: a thousand times fewer kernels than one by one, and equal to 1e-4."""
    grid = np.linspace(-8, 8, 801)
    return lambda t, y: np.interp(y[:, 0], grid, known.policy(t, grid[:, None])[:, 0])[:, None]


# -- the contract ------------------------------------------------------------------------------------------------------


def test_an_episode_depends_on_seed_copy_and_number_alone():
    env, spec = make(steps=4)
    assert (spec.horizon, spec.obs_dim, spec.act_dim, spec.discount, spec.action_low) == (4, 2, 1, 1.0, None)
    actions = np.random.default_rng(0).normal(size=(12, 3, 1))
    assert len(set(env.reset()[0][:, 1].tolist())) == 3, "copies differ"
    seen = [env.step(a) for a in actions]
    assert [bool(s[2].all()) for s in seen] == [False, False, False, True] * 3
    assert not any(s[3].any() for s in seen)
    assert env.episodes == [3, 3, 3]
    other, _ = make(steps=4, copies=5)
    other.start([2, 1, 2, 9, 0])
    again = [other.step(np.concatenate([a, a[:2]])) for a in actions[8:]]
    for row in (0, 2):
        for first, second in zip(seen[8:], again, strict=True):
            assert first[1][row] == second[1][row]
            assert first[4]["score"][row] == second[4]["score"][row]
        assert seen[-1][4]["final_obs"][row].tolist() == again[-1][4]["final_obs"][row].tolist()
    assert seen[8][4]["score"][1] != again[0][4]["score"][1], "another episode of the same copy"


def test_open_episodes_of_different_lengths_are_had_again():
    env, _ = make(steps=5)
    actions = np.random.default_rng(1).normal(size=(3, 3, 1)).astype(np.float32)
    env.start([4, 0, 2])
    seen = [env.step(a)[0] for a in actions]
    after = env.step(np.zeros((3, 1)))[0]
    again, _ = make(steps=5)
    obs = again.resume([4, 0, 2], [actions[:, 0], [], actions[:2, 2]])
    assert obs[:, 0].tolist() == [np.float32(1.0), np.float32(2.5), np.float32(1.5)]
    assert [obs[0].tolist(), obs[2].tolist()] == [seen[2][0].tolist(), seen[1][2].tolist()]
    full, _ = make(steps=5)
    full.resume([4, 0, 2], list(actions.transpose(1, 0, 2)))
    assert full.step(np.zeros((3, 1)))[0].tolist() == after.tolist()
    assert full.step(np.zeros((3, 1)))[2].all()


def test_returned_arrays_are_not_written_to_again():
    env, _ = make(steps=3)
    held = [env.reset()[0]]
    copies = [held[0].copy()]
    for _ in range(4):
        held.append(env.step(np.ones((3, 1)))[0])
        copies.append(held[-1].copy())
    assert all(np.array_equal(a, b) for a, b in zip(held, copies, strict=True))
    with pytest.raises(ValueError, match=r"shape \(3, 1\), found \(3,\)"):
        env.step(np.zeros(3))


# -- the process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [CONSTANT, VP])
def test_alpha_and_sigma_solve_the_equations_of_the_forward_process(d):
    t, h = np.linspace(0.05, 1.5, 30), 1e-5
    slope = (np.log(d.alpha(t + h)) - np.log(d.alpha(t - h))) / (2 * h)
    np.testing.assert_allclose(slope, -d.f(t), rtol=1e-6)
    growth = (d.sigma2(t + h) - d.sigma2(t - h)) / (2 * h)
    np.testing.assert_allclose(growth, d.g2(t) - 2 * d.f(t) * d.sigma2(t), rtol=1e-5, atol=1e-8)
    assert (d.alpha(0.0), d.sigma2(0.0)) == (1.0, 0.0)


def test_the_exact_score_of_one_point_leads_to_it():
    """With data at 0.7 alone the score is (0.7 alpha - y) / sigma^2. DDIM's steps are exact for it. Euler's on the probability
    flow shrink all differences by a product, and on the SDE the last one leaves its noise, of variance g^2 dt."""

    def final(sampler, steps):
        env, spec = make(copies=1000, steps=steps, sampler=sampler)
        d, first = spec.dynamics, env.reset()[0]
        return play(env, lambda t, y: (d.alpha(t) * 0.7 - y) / d.sigma2(t))[0][:, 1], d, first[:, 1]

    assert np.abs(final("ddim", 3)[0] - 0.7).max() < 1e-6
    y, d, first = final("ode", 50)
    t = d.dt * np.arange(1, 51)
    assert np.std(y) / np.std(first) == pytest.approx(np.prod(1 + (d.f(t) - d.g2(t) / 2 / d.sigma2(t)) * d.dt), rel=1e-4)
    y, d, _ = final("sde", 200)
    assert np.sqrt(np.square(y - 0.7).mean()) == pytest.approx(math.sqrt(d.g2(d.dt) * d.dt), rel=0.07)


@pytest.mark.parametrize("settings", [{}, VARYING])
def test_the_sdes_noise_is_new_at_every_step(settings):
    env, spec = make(copies=4000, steps=3, **settings)
    d, obs, drawn = spec.dynamics, env.reset()[0], []
    drawn.append(obs[:, 1] / math.sqrt(d.sigma2(d.time)))
    for step in range(3):
        after, _, _, _, info = env.step(np.full((4000, 1), 0.4))
        t, y, after = float(obs[0, 0]), obs[:, 1], info.get("final_obs", after)
        drawn.append((after[:, 1] - y - (d.f(t) * y + d.g2(t) * 0.4) * d.dt) / math.sqrt(d.g2(t) * d.dt))
        assert after[0, 0] == pytest.approx(d.time * (2 - step) / 3)
        obs = after
    assert np.abs(np.mean(drawn, axis=1)).max() < 4 / math.sqrt(4000)
    np.testing.assert_allclose(np.cov(drawn), np.eye(4), atol=5 / math.sqrt(4000))


@pytest.mark.parametrize("settings", [{}, VARYING])
def test_rewards_are_the_penalty_and_at_the_end_the_reward(settings):
    env, spec = make(copies=50, steps=2, beta=3.0, center=0.5, **settings)
    d, action = spec.dynamics, np.full((50, 1), 0.3)
    obs, _ = env.reset()
    for last in (False, True):
        t = float(obs[0, 0])
        obs, reward, _, _, info = env.step(action)
        penalty = -d.g2(t) * d.dt * (info["score"][:, 0] - 0.3) ** 2
        terminal = -3.0 * (info["final_obs"][:, 1] - 0.5) ** 2 if last else np.zeros(50)
        np.testing.assert_allclose(info["terminal_reward"], terminal, rtol=1e-5)
        np.testing.assert_allclose(reward, penalty + terminal, rtol=1e-5)


# -- the estimator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gmm1d", "swissroll2d"])
def test_the_ratio_estimate_approaches_the_score_with_m(name):
    law, points = data.synthetic(name)
    generator, t = np.random.default_rng(0), 0.5
    alpha, sigma2 = CONSTANT.alpha(t), CONSTANT.sigma2(t)
    y = alpha * law.sample(400, generator) + math.sqrt(sigma2) * generator.standard_normal((400, law.means.shape[1]))
    exact, errors = law.score(y, alpha, sigma2), []
    for m in (10, 100, 1000, 10000):
        estimate = RatioEstimator(points, m, 1e-8, CONSTANT)
        found = estimate(np.full(400, t), y, generator.integers(len(points), size=400))
        errors.append(np.square(found - exact).sum(axis=1).mean())
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 5
    assert errors[3] < errors[2] / 5
    assert errors[3] < 1e-3 * np.square(exact).sum(axis=1).mean()


def test_one_point_pulls_to_itself_and_the_floor_to_the_origin():
    """Without a floor m = 1 is the score of one kernel; averaged over the data it is that of a Gaussian about their mean, so a
    mixture collapses to it. Where the density is below the floor nothing is left but -y / sigma^2."""
    points = np.array([[-1.0], [2.0]])
    alpha, sigma2 = CONSTANT.alpha(0.5), CONSTANT.sigma2(0.5)
    y, t, places = np.array([[0.3], [0.3]]), np.full(2, 0.5), np.array([0, 1])
    bare = RatioEstimator(points, 1, 0.0, CONSTANT)(t, y, places)
    np.testing.assert_allclose(bare, (alpha * points - 0.3) / sigma2, rtol=1e-5)
    far = np.full((2, 1), 30.0)
    np.testing.assert_allclose(RatioEstimator(points, 1, 1e-8, CONSTANT)(t, far, places), -far / sigma2, rtol=1e-5)
    density = np.exp(-np.square(0.3 - alpha * points[0, 0]) / (2 * sigma2)) / math.sqrt(2 * math.pi * sigma2)
    twice = np.array([[-1.0], [-1.0]])
    half = RatioEstimator(twice, 2, 2 * float(density), CONSTANT)(t, y, places)
    np.testing.assert_allclose(half, np.full((2, 1), (alpha * -0.5 - 0.3) / sigma2), rtol=1e-5)


def test_two_estimates_take_the_variance_out_of_the_penalty():
    """At a = the true score, one estimate is fined for its variance; the product of two has mean about 0."""
    law, _ = data.synthetic("gmm1d")
    means = {}
    for estimates in (1, 2):
        env, spec = make(copies=2000, steps=10, m=30, estimates=estimates, beta=0.0)
        d = spec.dynamics
        means[estimates] = play(env, lambda t, y, d=d: law.score(y, d.alpha(t), d.sigma2(t)))[1].mean()
    assert means[1] < -0.05
    assert abs(means[2]) < 0.15 * abs(means[1])


# -- the ground truth --------------------------------------------------------------------------------------------------


def test_the_tilted_mixture_has_the_policy_of_the_closed_form():
    """exp(-(y - 1)^2) times a Gaussian is a Gaussian, so p* is a mixture whose every number is known."""
    law, known = data.gmm1d(), generation.ground_truth("gmm1d", Config(beta=2.0))
    variance = 1 / (1 / law.sd**2 + 2)
    means = variance * (law.means / law.sd**2 + 2)
    logs = np.square(means[:, 0]) / (2 * variance) - np.square(law.means[:, 0]) / (2 * law.sd**2)
    tilted = data.Mixture(np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum(), means, math.sqrt(variance))
    y = np.linspace(-3, 3, 61)[:, None]
    for t in (0.0125, 0.3, 2.5):
        exact = tilted.score(y, CONSTANT.alpha(t), CONSTANT.sigma2(t))
        np.testing.assert_allclose(known.policy(t, y), exact, atol=1e-5)
    reward = -(tilted.weights * (np.square(means[:, 0] - 1) + variance)).sum()
    assert known.mean_reward() == pytest.approx(reward, abs=1e-6)
    sample = tilted.sample(2048, np.random.default_rng(0))
    assert known.kl(sample, known.best) == pytest.approx(known.kl_floor(2048, known.best), abs=0.004)
    assert known.kl(sample + 0.3, known.best) > 0.1


@pytest.mark.parametrize(("name", "variance"), [("gmm1d", 1.0), ("gmm1d", 25.0), ("swissroll2d", 4.0)])
def test_the_priors_divergence_is_that_of_its_samples(name, variance):
    """Also of a prior that reaches beyond the grid, whose tails are no small part."""
    known = generation.ground_truth(name, Config(variance=variance))
    sample = np.random.default_rng(0).normal(0, math.sqrt(variance), (200_000, known.dim))
    assert known.prior_kl() == pytest.approx(known.kl(sample, known.best), abs=0.02)


@pytest.mark.parametrize(("name", "far"), [("swissroll2d", [-100.0, 60.0]), ("gmm1d", [-300.0])])
def test_far_from_the_data_the_best_action_points_back(name, far):
    """Where p* underflows, untrained agents were scored nan."""
    found = generation.ground_truth(name, Config(beta=200.0 if name == "gmm1d" else 2.0)).policy(0.05, np.array([far]))
    assert (np.sign(found) == -np.sign([far])).all()
    assert (np.abs(found) > np.abs(far)).all()


def test_in_the_plane_beta_0_is_the_score_and_the_reward_moves_mass():
    law, known = data.swissroll2d(), generation.ground_truth("swissroll2d", Config(beta=0.0))
    y = law.sample(50, np.random.default_rng(0)) + 0.2
    for t in (0.1, 0.8):
        np.testing.assert_allclose(known.policy(t, y), known.score(t, y), rtol=1e-3, atol=1e-3)
    inside = known.mean_reward()
    moved = generation.ground_truth("swissroll2d", Config(beta=2.0)).mean_reward()
    assert moved == pytest.approx(inside * math.e / (inside * math.e + 1 - inside), abs=1e-6)
    sample = law.sample(4096, np.random.default_rng(1))
    assert known.kl(sample, known.data) == pytest.approx(known.kl_floor(4096, known.data), abs=0.01)


def chain_mean(known: Truth) -> float:
    """E h of the Euler chain of mu* exactly: its law carried from step to step on a grid."""
    d, y = known.dynamics, np.linspace(-5, 5, 501)
    law = np.exp(-np.square(y) / (2 * d.sigma2(d.time)))
    law /= law.sum()
    for t in d.time * np.arange(d.steps, 0, -1) / d.steps:
        mean = y + (d.f(t) * y + d.g2(t) * known.policy(t, y[:, None])[:, 0]) * d.dt
        kernel = np.exp(-np.square(y - mean[:, None]) / (2 * d.g2(t) * d.dt))
        law = (law / kernel.sum(axis=1)) @ kernel
    return float(law @ known.h(y[:, None]))


def errors_of_the_best_policy(steps, copies):
    """(error of E h of the exact chain, that of the played one, its standard error, KL above the histogram's floor)."""
    known = generation.ground_truth("gmm1d", Config(steps=steps))
    env, _ = make(copies=copies, steps=steps, m=10)  # few points: rewards play no part
    y = play(env, best_policy(known))[0][:, 1:].astype(np.float64)
    rewards, target = known.h(y), known.mean_reward()
    above = known.kl(y, known.best) - known.kl_floor(copies, known.best)
    return chain_mean(known) - target, rewards.mean() - target, rewards.std() / math.sqrt(copies), above


@pytest.mark.filterwarnings("ignore:generation/gmm1d")  # of few points
def test_the_best_policy_played_is_as_good_as_its_steps_are_small():
    """50 steps give -0.382 where -0.326 is the truth: that is Euler's error, of order dt, and not the policy's."""
    coarse, fine = errors_of_the_best_policy(50, 4096), errors_of_the_best_policy(200, 4096)
    assert coarse[0] == pytest.approx(-0.0563, abs=1e-3)
    assert coarse[0] / fine[0] == pytest.approx(4, rel=0.15)
    for exact, played, standard, _ in (coarse, fine):
        assert abs(played - exact) < 3 * standard
    assert coarse[3] < 0.04
    assert fine[3] < 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:generation/gmm1d")
def test_the_best_policy_played_in_800_steps_is_within_a_hundredth():
    exact, played, standard, above = errors_of_the_best_policy(800, 16384)
    assert exact == pytest.approx(-0.0563 / 16, rel=0.25)
    assert abs(played) < 0.01
    assert abs(played - exact) < 3 * standard
    assert above < 0.01


def test_the_score_error_is_the_weighted_square_distance_from_the_best_actions():
    """0 for them; for all of them moved by 0.1 it is 0.01 times the integral of g^2, 5; half of it is above the KL."""
    known = generation.ground_truth("gmm1d", Config())
    for moved, wanted in ((0.0, 0.0), (0.1, 0.01 * 2 * 2.5), (1.0, 5.0)):
        env, _ = make(copies=2048, m=300)
        play(env, lambda t, y: np.zeros_like(y))  # an earlier episode plays no part
        final, _ = play(env, lambda t, y, moved=moved: best_policy(known)(t, y) + moved)
        found = env.scores(final)
        assert found["score error"][0] == pytest.approx(wanted, abs=1e-6, rel=1e-3)
    assert 0.5 < found["KL"][0] < found["score error"][0] / 2
    assert "score error" not in make(copies=4, sampler="ode")[0].scores(final[:4]), "the flow's best actions are not known"


@pytest.mark.filterwarnings("ignore:generation/swissroll2d")  # of few points
def test_in_the_plane_the_best_policy_generates_the_best_law():
    """Euler's 100 steps leave 0.07 nats, where samples of the data are 0.4 away."""
    known = generation.ground_truth("swissroll2d", Config(beta=4.0, steps=100))
    env, _ = make("swissroll2d", 2048, beta=4.0, steps=100, m=2)
    y = play(env, known.policy)[0][:, 1:].astype(np.float64)
    floor = known.kl_floor(2048, known.best)
    assert known.kl(y, known.best) < floor + 0.1
    assert known.kl(known.law.sample(2048, np.random.default_rng(0)), known.best) > floor + 0.3
    assert known.h(y).mean() == pytest.approx(known.mean_reward(), abs=0.03)


# -- bounded actions ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:generation/gmm1d")  # of few points
@pytest.mark.parametrize(("steps", "copies", "published"), [(50, 2048, 5.21), (5, 5000, None)])
def test_the_bound_clips_less_than_one_in_a_thousand_best_actions(steps, copies, published):
    """Few steps lead away from p*_t, whose own actions are smaller. At the default it is the bound of recorded results."""
    env, spec = make(copies=copies, steps=steps, m=10, bounded=True)  # few points: rewards play no part
    scale, policy = spec.dynamics.action_scale, best_policy(generation.ground_truth("gmm1d", Config(steps=steps)))
    assert spec.action_high == (1.0,)
    assert published in (scale, None)
    clipped = []

    def scaled(t, y):
        actions = policy(t, y) / scale
        clipped.append(np.abs(actions) > 1)
        return actions

    final, _ = play(env, scaled)
    assert 0 < np.mean(clipped) < 1e-3
    free, _ = play(make(copies=copies, steps=steps, m=10)[0], policy)
    assert np.median(np.abs(final - free)) < 1e-5, "the same samples but for the clipped"


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "settings", "complaint"),
    [
        ("gmm1d", {"m": 0}, "m=0 is out of range: it takes a whole number >= 1"),
        ("gmm1d", {"m": 10**6}, "m must be between 1 and the 131072 points of the data, found 1000000"),
        ("gmm1d", {"beta": -1.0}, "beta=-1.0 is out of range: it takes 0 or more"),
        ("gmm1d", {"beta": math.nan}, "beta=nan"),
        ("gmm1d", {"time": 0.0}, "time=0.0 is out of range: it takes a number > 0"),
        ("gmm1d", {"steps": 0}, "steps=0"),
        ("gmm1d", {"sampler": "heun"}, "one of sde, ode, ddim"),
        ("gmm1d", {"estimates": 3}, "estimates=3 is out of range: it takes 1 or 2"),
        ("gmm1d", {"interval_low": 2.0}, "interval_low=2.0 is out of range: it takes less than interval_high"),
        ("gmm1d", {"reward": "jpeg"}, "reward='jpeg' is for images"),
        ("gmm1d", {"path": "x"}, "path belongs to"),
        ("gmm1d", {"features": "x"}, "features belongs to tasks of images"),
        ("gmm1d", {"center": 8.0}, r"best law has 0\.\d+ of its mass at the edge of \[-4, 4\].*at most 0.0001.*lower beta=2"),
        ("gmm2d", {}, "did you mean generation/gmm1d"),
        ("cifar10", {}, r"needs path=\.\.\., the archive of https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        ("cifar10", {"path": "/none"}, r"there is no file /none; get https.* \(md5 c32a1d4ab5d03f1284b67883e8d87530\)"),
        ("images", {}, "a folder of PNG or JPEG images"),
        ("images", {"path": "/none"}, "there is no PNG or JPEG image in /none"),
    ],
)
def test_bad_settings_are_refused_in_one_line(id, settings, complaint):
    for use in (lambda: envs.check(f"generation/{id}", settings), lambda: make(id, **settings)):
        with pytest.raises(ValueError, match=complaint) as error:
            use()
        assert "\n" not in str(error.value)


def test_points_that_are_not_finite_are_refused():
    points = np.ones((5, 2))
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"finite points \[n, d\], found shape \(5, 2\), 1 numbers not finite"):
        RatioEstimator(points, 1, 0.0, CONSTANT)


@pytest.mark.parametrize(("name", "steps", "distance"), [("gmm1d", 800, "0.003125"), ("swissroll2d", 100_000, "1.6e-05")])
def test_estimates_that_are_mostly_error_are_warned_of(name, steps, distance):
    """Next to the Swiss roll all estimates are the floor's, alike and wrong. The number is the error from the exact score."""
    wanted = f"{distance} from the data, an estimate of the score from m=10 points has a squared error of"
    with pytest.warns(UserWarning, match=wanted) as told:
        envs.check(f"generation/{name}", {"m": 10, "steps": steps})
    found = float(str(told[0].message).split("error of ")[1].split()[0])
    d = dataclasses.replace(CONSTANT if name == "gmm1d" else dataclasses.replace(VP, variance=1.0), steps=steps)
    (law, points), generator, t = data.synthetic(name), np.random.default_rng(0), d.dt
    y = d.alpha(t) * law.sample(1000, generator)
    y += math.sqrt(d.sigma2(t)) * generator.standard_normal(y.shape)
    estimate = RatioEstimator(points, 10, 1e-8, d)(np.full(1000, t), y, generator.integers(len(points), size=1000))
    assert found == pytest.approx(np.square(estimate - law.score(y, d.alpha(t), d.sigma2(t))).mean() * d.sigma2(t), rel=0.3)


def test_a_time_too_short_for_the_prior_is_warned_of():
    """The best policy, of small steps, ends where the warning says."""
    settings = {"time": 0.3, "steps": 40}
    with pytest.warns(UserWarning, match=r"time=0.3 .* generates a law 0\.2 nats from the p\* of the scores"):
        env, _ = make(copies=2048, **settings)
    known = generation.ground_truth("gmm1d", Config(**settings))
    y = play(env, best_policy(known))[0][:, 1:].astype(np.float64)
    assert known.kl(y, known.best) - known.kl_floor(2048, known.best) == pytest.approx(known.prior_gap(), abs=0.03)
    assert generation.ground_truth("gmm1d", Config()).prior_gap() < 1e-4
    assert generation.ground_truth("swissroll2d", Config(time=0.5)).prior_gap() == pytest.approx(0.005, abs=0.003)


def test_the_tasks_fill_every_setting_that_is_null():
    for name in generation.names():
        filled = dataclasses.asdict(generation.filled(name, Config()))
        assert [key for key, value in filled.items() if value is None] == ["path", "features"]
