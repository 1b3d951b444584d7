"""Straightforward float64 versions of the algorithms, with copies of everything, and small problems to run them on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slr_det.engine import Engine, Hyper
from slr_det.groups import GroupSpec, build_groups
from slr_det.projections import Projection


def top(x: Tensor, l: int) -> Tensor:
    """x with all but its l largest magnitudes zeroed, ties to the lower index."""
    order = torch.argsort(x.abs().flatten(), descending=True, stable=True)[:l]
    out = torch.zeros_like(x).flatten()
    out[order] = x.flatten()[order]
    return out.view_as(x)


class NaiveSLR:
    """Equations (5) to (13) on one tensor, read off the paper: W^{k-1} is kept, the Lagrangian is evaluated whole."""

    def __init__(self, w: Tensor, l: int, hyper: Hyper, objective: float | None) -> None:
        self.l, self.hyper = l, hyper
        self.w, self.f, self.k = w.double().clone(), objective, 0
        self.z = top(self.w, l)
        self.lam = torch.zeros_like(self.w)
        self.s = hyper.s0
        self.conditions: tuple[bool, bool] = (False, False)
        self.updates: list[tuple[float, float]] = []  # step size and distance at each multiplier update

    def lagrangian(self, f: float, w: Tensor, z: Tensor) -> float:
        d = w - z
        return f + float((self.lam * d).sum()) + 0.5 * self.hyper.rho * float((d * d).sum())

    def end_iteration(self, w: Tensor, f: float) -> None:
        self.k += 1
        w = w.double().clone()
        p = 1 - 1 / self.k**self.hyper.r
        self.a = 1 - 1 / (self.hyper.M * self.k**p)
        first = self.f is None or self.lagrangian(f, w, self.z) < self.lagrangian(self.f, self.w, self.z)
        d0 = float((self.w - self.z).norm())
        d1 = float((w - self.z).norm())
        if first and d0 > 0 and d1 > 0:
            self.s = self.a * self.s * d0 / d1
            self.lam = self.lam + self.s * (w - self.z)
            self.updates.append((self.s, d1))
        z = top(w + self.lam / self.hyper.rho, self.l)
        second = self.lagrangian(0.0, w, z) < self.lagrangian(0.0, w, self.z)
        d2 = float((w - z).norm())
        over = d1 if self.hyper.stepsize == "contractive" else d0
        if second and over > 0 and d2 > 0:
            self.s = self.a * self.s * over / d2
            self.lam = self.lam + self.s * (w - z)
            self.updates.append((self.s, d2))
        self.z, self.w, self.f = z, w, f
        self.conditions = (first, second)


class NaiveADMM:
    """Z = projection of W + Lam/rho, Lam += rho (W - Z)."""

    def __init__(self, w: Tensor, l: int, rho: float) -> None:
        self.l, self.rho = l, rho
        self.z = top(w.double(), l)
        self.lam = torch.zeros_like(self.z)

    def end_iteration(self, w: Tensor) -> None:
        w = w.double()
        self.z = top(w + self.lam / self.rho, self.l)
        self.lam = self.lam + self.rho * (w - self.z)


def naive_penalty(
    weights: Sequence[Tensor], z: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float
) -> Tensor:
    """The second part of (4), for autograd to differentiate."""
    total = torch.zeros(())
    for i, w in enumerate(weights):
        if multipliers:
            total = total + (multipliers[i] * (w - z[i])).sum()
        total = total + rho / 2 * ((w - z[i]) ** 2).sum()
    return total


def one_group(
    named: dict[str, Tensor],
    keep: float = 0.25,
    projection: str = "unstructured",
    method: str = "slr",
    **options: object,
) -> Engine:
    """An engine over one group that holds every tensor."""
    hyper = Hyper(**{k: v for k, v in options.items() if k != "iterations"})  # type: ignore[arg-type]
    spec = GroupSpec("all", tuple(named), keep, Projection.parse(projection))
    iterations = int(str(options.get("iterations", 10)))
    return Engine(build_groups(named, [spec]), method, iterations=iterations, hyper=hyper)


def train_quadratic(
    engine: Engine, w: Tensor, target: Tensor, *, iterations: int, steps: int = 20, lr: float = 0.2
) -> None:
    """SGD on f(W) = 1/2 ||W - A||^2 plus the engine's penalty."""
    optimizer = torch.optim.SGD([w], lr=lr)
    for _ in range(iterations):
        for _ in range(steps):
            loss = 0.5 * ((w - target) ** 2).sum()
            engine.observe(loss)
            optimizer.zero_grad()
            (loss + engine.penalty()).backward()
            optimizer.step()
            engine.after_step()
        engine.end_iteration(lambda: float(0.5 * ((w.detach() - target) ** 2).sum()))


def norm(x: Tensor) -> float:
    return math.sqrt(float((x.double() ** 2).sum()))
