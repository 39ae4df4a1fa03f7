"""The Jensen-Shannon estimator against its closed forms, and what a critic can and cannot see."""

import math

import pytest
import torch
from rankone.imaging import MutualInformationCritic, jensen_shannon_information

INDEPENDENT = -2 * math.log(2)


def trained(x, s, *, linear=False, steps=300):
    """The estimate on fresh permutations after training the critic, averaged."""
    generator = torch.Generator().manual_seed(0)
    critic = MutualInformationCritic(x.shape[1], s.shape[1])
    critic.reset_parameters(generator)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)

    def estimate():
        if not linear:
            return critic(x, s, generator)
        order = torch.randperm(len(x), generator=generator)

        def scores(x):
            return critic.output(critic.hidden(torch.cat([x, s], dim=1)))

        return jensen_shannon_information(scores(x), scores(x[order]))

    for _ in range(steps):
        optimizer.zero_grad()
        (-estimate()).backward()
        optimizer.step()
    with torch.no_grad():
        return float(torch.stack([estimate() for _ in range(20)]).mean())


def test_a_silent_critic_gives_minus_two_log_two():
    zeros = torch.zeros(10, dtype=torch.float64)
    assert float(jensen_shannon_information(zeros, zeros)) == pytest.approx(INDEPENDENT)


def test_estimate_is_the_formula():
    joint, product = torch.randn(50, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    expected = -torch.log1p(torch.exp(-joint)).mean() - torch.log1p(torch.exp(product)).mean()
    torch.testing.assert_close(jensen_shannon_information(joint, product), expected)


def test_the_optimal_critic_attains_twice_the_divergence():
    # Two coins that always agree against two independent ones: T = log of the ratio of their
    # probabilities; JSD = H(1/2 average) - average of the entropies.
    joint = torch.full((4,), math.log(2.0), dtype=torch.float64)  # p = 1/2 against 1/4
    product = torch.tensor([math.log(2.0), -40.0], dtype=torch.float64)  # agreeing half the time
    mixture = [0.375, 0.375, 0.125, 0.125]
    entropy = -sum(p * math.log(p) for p in mixture)
    divergence = entropy - (math.log(2) + math.log(4)) / 2
    value = float(jensen_shannon_information(joint, product))
    assert value == pytest.approx(2 * divergence - 2 * math.log(2), abs=1e-12)


def test_a_trained_critic_tells_dependence_from_independence():
    x = torch.randn(1000, 2)
    dependent, independent = trained(x, x), trained(x, torch.randn(1000, 2))
    assert dependent > independent + 0.3
    assert independent == pytest.approx(INDEPENDENT, abs=0.1)


def test_without_a_bend_no_critic_sees_anything():
    # T(x, s) = a(x) + b(s) has one mean under both: Jensen bounds the estimate by -2 log 2.
    x = torch.randn(500, 2)
    assert trained(x, x, linear=True) <= INDEPENDENT + 1e-2


def test_the_permutation_moves_pixels():
    # One pixel has no other: joint and independent pairs are the same, and only then.
    critic = MutualInformationCritic(2, 3).requires_grad_(False)
    x, s = torch.randn(200, 2), torch.rand(200, 3)
    joint = critic.scores(x, s)
    assert float(critic(x, s)) != pytest.approx(float(jensen_shannon_information(joint, joint)))
    single = critic.scores(x[:1], s[:1])
    torch.testing.assert_close(critic(x[:1], s[:1]), jensen_shannon_information(single, single))


def test_shares_the_hidden_layer_correctly():
    critic = MutualInformationCritic(2, 3)
    torch.nn.init.normal_(critic.hidden.bias)
    x, s = torch.randn(200, 2), torch.rand(200, 3)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    expected = jensen_shannon_information(critic.scores(x, s), critic.scores(x[order], s))
    found = critic(x, s, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, expected)


def test_rejects_what_does_not_match():
    critic = MutualInformationCritic(2, 3)
    with pytest.raises(ValueError, match=r"x and s must have shapes \(P, l\) and \(P, k\), got"):
        critic(torch.zeros(4, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="product_scores must not be empty"):
        jensen_shannon_information(torch.zeros(2), torch.zeros(0))
