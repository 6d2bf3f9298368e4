"""The whole loss in NumPy and float64, in loops and sums as the papers print them, for a linear network.

What the papers hold constant (targets, advantages, weights) is computed from parameters of its own, so that the
gradient of the loss is that of finite differences in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.config import LearnerConfig
from policies.spaces import ActionSpace

Arrays = dict[str, NDArray[Any]]

FEATURES = 4


@dataclass(frozen=True)
class Figures:
    """PopArt's, as they were before the batch."""

    weight: float
    mean: float
    variance: float


def make_parameters(space: ActionSpace, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    sizes = {"policy": space.parameters, "value": 1, "cost_value": 1}
    return {name: 0.7 * rng.normal(size=(FEATURES, size)) for name, size in sizes.items()}


def make_batch(space: ActionSpace, T: int = 5, B: int = 4, seed: int = 0) -> Arrays:
    """Terminations, boundary rows, costs; the last half of the records is replayed."""
    rng = np.random.default_rng(seed)
    mask, discount = np.ones((T, B), bool), (rng.random((T, B)) > 0.25).astype(np.float64)
    mask[2, 1] = mask[3, 3] = False
    discount[2, 1] = discount[3, 3] = 0.0
    discount[1, 1] = discount[2, 3] = 1.0
    logits = rng.normal(size=(T, B, space.parameters))
    action: NDArray[Any]
    if space.kind == "box":
        action = rng.normal(size=(T, B, *space.shape))
    else:
        action = rng.integers(np.array(space.sizes).reshape(space.shape), size=(T, B, *space.shape))
    log_prob = log_probability(logits, action, space)
    return {
        "observation": rng.normal(size=(T + 1, B, FEATURES)),
        "action": action,
        "reward": rng.normal(size=(T, B)) * mask,
        "cost": (rng.random((T, B)) > 0.5) * mask * 1.0,
        "discount": discount,
        "mask": mask,
        "log_prob": log_prob * mask,
        "logits": logits,
        "replayed": np.arange(B) >= B // 2,
    }


def components(logits: NDArray[Any], space: ActionSpace) -> list[NDArray[Any]]:
    """log softmax of each component."""
    parts = np.split(logits, np.cumsum(space.sizes)[:-1], axis=-1)
    return [part - np.log(np.exp(part).sum(-1, keepdims=True)) for part in parts]


def gaussian(logits: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    mean, log_std = np.split(logits, 2, axis=-1)
    return mean, np.exp(np.clip(log_std, -5, 2))


def log_probability(logits: NDArray[Any], action: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    if space.kind == "box":
        mean, std = gaussian(logits)
        density = np.exp(-0.5 * ((action - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        return np.asarray(np.log(density).sum(-1))
    chosen = action.reshape(*logits.shape[:-1], -1)
    parts = components(logits, space)
    total = [np.take_along_axis(part, chosen[..., [i]], -1)[..., 0] for i, part in enumerate(parts)]
    return np.asarray(np.sum(total, axis=0))


def entropies(logits: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    if space.kind == "box":
        return np.asarray(np.log(gaussian(logits)[1] * np.sqrt(2 * np.pi * np.e)).sum(-1))
    return np.asarray(np.sum([-(np.exp(part) * part).sum(-1) for part in components(logits, space)], axis=0))


def divergences(mu: NDArray[Any], pi: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    if space.kind == "box":
        (m, s), (n, t) = gaussian(mu), gaussian(pi)
        return np.asarray((np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1))
    pairs = zip(components(mu, space), components(pi, space), strict=True)
    return np.asarray(np.sum([(np.exp(p) * (p - q)).sum(-1) for p, q in pairs], axis=0))


def v_trace(V: NDArray[Any], r: NDArray[Any], gamma: NDArray[Any], rho: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Equation 1 of the paper by its double sum; V and the result have T + 1 rows."""
    T, B = r.shape
    v = V.copy()
    for b in range(B):
        for s in range(T):
            for t in range(s, T):
                weight = np.prod([gamma[i, b] * c[i, b] for i in range(s, t)])
                v[s, b] += weight * rho[t, b] * (r[t, b] + gamma[t, b] * V[t + 1, b] - V[t, b])
    return v


def upgo(V: NDArray[Any], r: NDArray[Any], gamma: NDArray[Any], followed: NDArray[Any]) -> NDArray[Any]:
    """G_t of AlphaStar, each return followed forwards to where it bootstraps."""
    T, B = r.shape
    G = np.zeros((T, B))
    for b in range(B):
        for s in range(T):
            t, weight = s, 1.0
            while True:
                G[s, b] += weight * r[t, b]
                weight *= gamma[t, b]
                t += 1
                if t == T or not followed[t, b] or r[t, b] + gamma[t, b] * V[t + 1, b] < V[t, b]:
                    G[s, b] += weight * V[t, b]
                    break
    return G


def reference_terms(
    parameters: Arrays,
    batch: Arrays,
    space: ActionSpace,
    config: LearnerConfig,
    *,
    frozen: Arrays,
    target: Arrays | None = None,
    popart: Figures | None = None,
    price: float | None = None,
) -> dict[str, float]:
    """The terms of the loss, each as the figure of that name; "scale" is PopArt's after the batch."""
    x, mask, r, a = batch["observation"], batch["mask"], config.reward_scale * batch["reward"], batch["action"]
    if config.reward_clip:
        r = np.clip(r, -config.reward_clip, config.reward_clip)
    r = r - config.cost_coefficient * batch["cost"]
    gamma, replayed, n = config.discount * batch["discount"], batch["replayed"], mask.sum()
    mean_0, scale_0 = (popart.mean, np.sqrt(popart.variance)) if popart and popart.weight else (0.0, 1.0)

    def outputs(p: Arrays) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        logits = x @ p["policy"]
        V, V_c = scale_0 * (x @ p["value"])[..., 0] + mean_0, (x @ p["cost_value"])[..., 0]
        return logits[:-1], log_probability(logits[:-1], a, space), V, V_c

    logits, log_pi, V, V_c = outputs(parameters)
    logits_0, log_pi_0, V_0, V_c0 = outputs(frozen)
    log_mu, log_target = batch["log_prob"], outputs(target)[1] if target else None
    kl, kl_0 = (divergences(batch["logits"], each, space) for each in (logits, logits_0))
    learnt = mask & (~replayed | (kl_0 <= config.trust_region_kl)) if config.trust_region_kl else mask
    is_ppo = config.policy_loss == "ppo"
    ratio = np.exp((log_target if is_ppo and log_target is not None else log_pi_0) - log_mu) * learnt
    rho, c = np.minimum(config.rho_clip, ratio), config.trace_decay * np.minimum(config.c_clip, ratio)
    weight = learnt if is_ppo and log_target is None else np.minimum(config.policy_gradient_rho_clip, ratio)
    v, v_c = v_trace(V_0, r, gamma, rho, c), v_trace(V_c0, batch["cost"], gamma, rho, c)
    A, A_c = weight * (r + gamma * v[1:] - V_0[:-1]), weight * (batch["cost"] + gamma * v_c[1:] - V_c0[:-1])
    sought, gain = V_0, r
    if price is not None:
        A = (A - price * A_c) / (1 + price)
        sought, gain = (V_0 - price * V_c0) / (1 + price), (r - price * batch["cost"]) / (1 + price)
    scale = scale_0
    if popart:
        values, old, beta = v[:-1][mask], (1 - config.popart_rate) * popart.weight, config.popart_rate
        mean = (old * popart.mean + beta * values.mean()) / (old + beta)
        square = (old * (popart.variance + popart.mean**2) + beta * (values**2).mean()) / (old + beta)
        scale = np.sqrt(square - mean**2)

    def policy_loss(advantage: NDArray[Any]) -> float:
        if not is_ppo:
            return float(-(log_pi * advantage)[learnt].sum() / n)
        R = np.exp(log_pi - (log_mu if log_target is None else log_target))
        clipped = np.clip(R, 1 - config.ppo_clip, 1 + config.ppo_clip)
        return float(-np.minimum(R * advantage, clipped * advantage)[learnt].sum() / n)

    again = mask & replayed
    terms = {
        "policy_loss": policy_loss(A / scale),
        "upgo_loss": policy_loss(weight * (upgo(sought, gain, gamma, learnt) - sought[:-1]) / scale),
        "value_loss": 0.5 * (((v - V)[:-1] / scale) ** 2)[learnt].sum() / n,
        "cost_value_loss": 0.5 * ((v_c - V_c)[:-1] ** 2)[learnt].sum() / n,
        "policy_cloning_loss": kl[again].sum() / n,
        "entropy": entropies(logits, space)[mask].sum() / n,
        "scale": float(scale),
    }
    if target:
        terms["value_cloning_loss"] = 0.5 * (((V - outputs(target)[2])[:-1] / scale) ** 2)[again].sum() / n
    return {name: float(term) for name, term in terms.items()}
