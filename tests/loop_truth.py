"""The remedies once more, from the papers' equations alone, in plain torch and float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from loop_cases import NEURONS, TIMESTEPS, Net
from torch import Tensor, nn

EPS = 1e-5  # of batch norm


def window(z: Tensor, width: Any) -> Tensor:
    """Return a step at z = 0 whose derivative is 1/width for |z| < width/2."""
    ramp = (z / width + 0.5).clamp(0.0, 1.0)
    return ramp + ((z >= 0).to(z.dtype) - ramp).detach()


class Truth:
    """The network of the cases with one remedy's equations written out.

    Args:
        net: gives the starting weights, copied.
        remedy: name.
        settings: of the case.
    """

    def __init__(self, net: Net, remedy: str, **settings: Any) -> None:
        self.remedy, self.settings = remedy, settings
        self.p = {
            name: value.detach().clone().requires_grad_() for name, value in net.named_parameters()
        }
        self.norm = net.norm1 is not None
        self.mu = dict.fromkeys(NEURONS, torch.zeros((), dtype=torch.float64))
        self.theta_run = {
            name: torch.full((TIMESTEPS,), NEURONS[name]["threshold"], dtype=torch.float64)
            for name in NEURONS
        }
        self.batch: dict[str, Any] = {}
        self.rates: list[Tensor] = []
        self.counts: list[Tensor] = []
        self.step = 0
        if remedy in ("as_sg", "rs_sg", "trsg"):
            for name, neuron in NEURONS.items():
                tau = 1.0 / (1.0 - neuron["decay"])
                k, w = math.log(math.exp(neuron["threshold"]) - 1.0), -math.log(tau - 1.0)
                for key, value in (("k", k), ("w", w)):
                    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
                    self.p[f"{name}.{key}"] = leaf

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, and keep what the remedy needs of the batch."""
        self.rates, self.counts = [], []
        for linear, norm, layer in (("first", "norm1", "low"), ("second", "norm2", "high")):
            current = x @ self.p[f"{linear}.weight"].T + self.p[f"{linear}.bias"]
            if self.norm:
                current = self._normalised(current, norm, NEURONS[layer]["threshold"])
            x = self._layer(layer, norm, current)
        return (x @ self.p["readout.weight"].T + self.p["readout.bias"]).mean(0)

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss."""
        if self.remedy == "sparsity":
            # c stays 0 for epochs / 5, then 1 - c falls to .6 of itself each epoch.
            epochs, target = self.settings["epochs"], self.settings["final_rate"]
            c = 0.0
            for epoch in range(1, self.step + 1):
                if epochs / 5 <= epoch < 3 * epochs / 4:
                    c = 1.0 - 0.6 * (1.0 - c)
            return c * sum((rate - target) ** 2 for rate in self.rates)
        if self.remedy == "count_bound":
            over = [(n - self.settings["bound"]).clamp(min=0) ** 2 for n in self.counts]
            return self.settings["strength"] * sum(one.mean() for one in over)
        return None

    def after_step(self) -> None:
        """Move what is not learned by gradient."""
        self.step += 1
        for name in NEURONS:
            if self.remedy.startswith("mp_init"):
                v, fired = self.batch[name]
                seen = torch.ones_like(fired) if self.remedy == "mp_init_all" else fired
                if seen.any():
                    self.mu[name] = 0.9 * self.mu[name] + 0.1 * v[seen].mean()
            if self.remedy.startswith("atgo") and self.remedy != "atgo_width":
                self.theta_run[name] = 0.1 * self.batch[name] + 0.9 * self.theta_run[name]

    def _normalised(self, x: Tensor, norm: str, theta: float) -> Tensor:
        # tdBN with alpha = 1: statistics over time and batch, biased variance.
        mean, var = x.mean((0, 1)), x.var((0, 1), correction=0)
        gamma, beta = self.p[f"{norm}.weight"], self.p[f"{norm}.bias"]
        scale = 1.0 if self.remedy == "agl_true_std" else theta
        return gamma * scale * (x - mean) / torch.sqrt(var + EPS) + beta

    def _layer(self, name: str, norm: str, current: Tensor) -> Tensor:
        n = NEURONS[name]
        if self.remedy in ("as_sg", "rs_sg", "trsg"):
            return self._learned(name, current)
        theta0, hard = n["threshold"], n["reset"] == "to_value"
        u = self.mu[name].expand_as(current[0])
        out, thresholds, fired = [], [], torch.zeros_like(current[0], dtype=torch.bool)
        for t in range(1, TIMESTEPS + 1):
            m = n["decay"] * u + n["gain"] * current[t - 1]
            seen = m.detach()
            mean, sd = seen.mean(), seen.std()
            theta, width = theta0, 1.0
            if self.remedy in ("atgo", "atgo_paper", "atgo_threshold"):
                theta = torch.clamp(mean + sd, min=0.05 * theta0)
                thresholds.append(theta)
            if self.remedy in ("atgo", "atgo_width"):
                width = 1.0 + torch.tanh(sd - theta0)
            if self.remedy == "atgo_paper":
                width = 1.0 + torch.tanh(theta - theta0)
            if self.remedy.startswith("agl"):
                width = self._agl(norm, n, t, sd)
            if self.remedy in ("atgo", "atgo_paper", "atgo_width") or self.remedy.startswith("agl"):
                width = float(min(max(float(width), 0.2 * theta0), 5.0 * theta0))
            s = window(m - theta, width)
            u = m * (1.0 - s) if hard else m - theta * s
            fired |= s.detach() > 0
            out.append(s)
        self.batch[name] = (
            (u.detach(), fired) if self.remedy.startswith("mp_init") else torch.tensor(thresholds)
        )
        spikes = torch.stack(out)
        self.rates += list(spikes.flatten(1).mean(1))
        self.counts.append(spikes.sum(0))
        return spikes

    def _agl(self, norm: str, n: dict[str, Any], t: int, sd: Tensor) -> Tensor | float:
        if self.remedy == "agl_true_std":
            return 2.0 * sd
        gamma, beta = self.p[f"{norm}.weight"].detach(), self.p[f"{norm}.bias"].detach()
        theta = n["threshold"]
        gbar = gamma.mean()
        if self.remedy == "agl_rms":
            gbar = torch.sqrt((gamma**2).mean() + beta.var(correction=0) / theta**2)
        past = n["decay"] ** 2 if t >= 2 else 0.0
        return 2.0 * n["gain"] * gbar * theta * math.sqrt(1.0 + past)

    def _learned(self, name: str, current: Tensor) -> Tensor:
        # theta = softplus(k), tau = 1 / sigmoid(w); u = (1 - 1/tau) v + I / tau, or + I.
        n = NEURONS[name]
        theta = nn.functional.softplus(self.p[f"{name}.k"])
        share = torch.sigmoid(self.p[f"{name}.w"])
        gain = share if n["gain"] == 1.0 - n["decay"] else n["gain"]
        u, out = torch.zeros_like(current[0]), []
        for now in current:
            m = (1.0 - share) * u + gain * now
            if self.remedy == "as_sg":
                s = window(m - theta, 1.0)
                o = s
            elif self.remedy == "rs_sg":
                s = window(m / theta - 1.0, 1.0)
                o = s
            else:
                # The authors' own form: o = theta * round(clip(u / theta - 1/2, 0, 1)).
                clipped = (m / theta - 0.5).clamp(0.0, 1.0)
                rounded = (m.detach() >= theta.detach()).double()
                s = clipped + (rounded - clipped).detach()
                o = theta * s
            u = m * (1.0 - s) if n["reset"] == "to_value" else m - theta * s
            out.append(o)
        return torch.stack(out)


Loss = Callable[[Tensor], Tensor]


def train_truth(truth: Truth, inputs: Tensor, loss_of: Loss, lr: float = 0.05) -> list[float]:
    """Train with gradient descent and momentum 0.9, written out."""
    velocity = {name: torch.zeros_like(value) for name, value in truth.p.items()}
    losses = []
    for x in inputs:
        loss = loss_of(truth(x))
        if (penalty := truth.penalty()) is not None:
            loss = loss + penalty
        names = list(truth.p)
        grads = torch.autograd.grad(loss, [truth.p[name] for name in names])
        with torch.no_grad():
            for name, grad in zip(names, grads, strict=True):
                velocity[name] = 0.9 * velocity[name] + grad
                truth.p[name] -= lr * velocity[name]
        truth.after_step()
        losses.append(loss.item())
    return losses
