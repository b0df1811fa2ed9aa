"""Soft, stochastic and regularised vector quantization: each system's claim on held-out vectors, against a baseline."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.convex import convex_combination
from anyglot.tokenizers.quantizers.transport import relaxed_transport

PLAIN = {"type": "vq", "codebook": "learned", "kmeans_init": False, "reset_below": 0.0}


def in_training(trained: Any) -> Any:
    """A copy whose quantizer mixes or draws, as in training."""
    model = copy.deepcopy(trained.model)
    model.quantizer.train()
    torch.manual_seed(0)
    return model


def relative_error(model: Any, trained: Any) -> float:
    """Held-out error over the variance, as `Measured.relative_error`, of any model."""
    x = trained.vectors.heldout
    with torch.no_grad():
        error = (model(x)[0] - x).square().sum()
    return float(error / (x - trained.vectors.train.mean(0)).square().sum())


@torch.no_grad()
def latents(trained: Any) -> Tensor:
    return trained.model.encoder(trained.vectors.heldout)


def codes_with_gradient(trained: Any) -> int:
    """How many codes one step of reconstruction moves."""
    model = in_training(trained)
    x = trained.vectors.train[:256]
    decoded, quantized = model(x)
    loss = (decoded - x).square().mean() + model.quantizer.loss(quantized)
    (gradient,) = torch.autograd.grad(loss, model.quantizer.codebook.weight)
    return int((gradient.abs().sum(1) > 0).sum())


def test_ibq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    ibq, plain = train_recipe("ibq"), train_like("ibq", {**PLAIN, "size": 256})
    assert codes_with_gradient(ibq) == 256
    assert codes_with_gradient(plain) < 64
    assert ibq.measured.health[0].usage >= 0.9
    assert plain.measured.health[0].usage < 0.25
    assert ibq.measured.relative_error < 0.9 * plain.measured.relative_error


def test_soft_vq_vae(train_recipe: Callable[..., Any]) -> None:
    trained = train_recipe("soft-vq-vae")
    quantizer = in_training(trained).quantizer
    z = latents(trained)
    noisy = z + math.sqrt(quantizer.temperature.value / 2) * torch.randn_like(z)
    with torch.no_grad():
        average, nearest = quantizer(noisy).vectors, quantizer.decode(quantizer.encode(noisy))
    assert (average - z).square().mean() < 0.9 * (nearest - z).square().mean()
    # The same between training and what is exported: the average reconstructs better than the code alone.
    assert relative_error(in_training(trained), trained) < trained.measured.relative_error


def test_scq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("scq")
    vq = train_like("scq", {"type": "vq", "size": 32})
    mixed = relative_error(in_training(trained), trained)
    assert mixed < 0.9 * vq.measured.relative_error
    assert mixed < trained.measured.relative_error  # which is of the nearest code alone
    quantizer = in_training(trained).quantizer
    z = latents(trained)
    with torch.no_grad():
        combined, nearest = quantizer(z).vectors, quantizer.decode(quantizer.encode(z))
    assert ((combined - z).square().sum(1) <= (nearest - z).square().sum(1) * (1 + 1e-4) + 1e-6).all()
    assert (combined - z).square().mean() < 0.7 * (nearest - z).square().mean()
    codes, some = quantizer.codebook.weight.detach().double(), z[:2].double().requires_grad_()
    near = quantizer.encode(z[:2])[:, 0]
    assert torch.autograd.gradcheck(
        lambda v: convex_combination(v, codes, near, 0.1, 500) @ codes, some, atol=1e-4, check_undefined_grad=False
    )


def test_shvq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    shvq = train_recipe("shvq")
    gap = in_training(shvq).quantizer(latents(shvq)).stats["gap"]
    assert gap < 0.02
    assert shvq.measured.relative_error < 1.05 * relative_error(in_training(shvq), shvq)
    soft = train_like("shvq", {"type": "soft", "size": 64, "temperature": 4.0, "kmeans_init": False})
    assert in_training(soft).quantizer(latents(soft)).stats["gap"] > 10 * gap
    assert soft.measured.relative_error > 1.2 * shvq.measured.relative_error  # nothing made it hard
    frugal = train_like("shvq", {**shvq.config.quantizer, "rate": 0.01})
    thrifty = train_like("shvq", {**shvq.config.quantizer, "rate": 0.05})
    bits = [trained.measured.health[0].bits for trained in (shvq, frugal, thrifty)]
    assert bits[0] > bits[1] + 0.3 > bits[2] + 0.6


@torch.no_grad()
def undecided(trained: Any) -> float:
    """Mean entropy in nats of the draws of an SQ-VAE's first level."""
    quantizer, z = trained.quantizer, latents(trained)
    distance = torch.cdist(z, quantizer.stack[0].weight).square()
    return float(torch.special.entr(torch.softmax(-distance / (2 * quantizer.variances[0]), 1)).sum(1).mean())


def test_sq_vae(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    sq, plain = train_recipe("sq-vae"), train_like("sq-vae", {**PLAIN, "size": 256}, objective="mse")
    early = train_recipe("sq-vae", "steps=100")
    variances = [float(trained.quantizer.variances[0].detach()) for trained in (early, sq)]
    assert sq.config.quantizer.get("variance", 1.0) > variances[0] > variances[1]
    uncertainty = [undecided(trained) for trained in (early, sq)]  # which does not depend on the latents' scale
    assert uncertainty[1] < 0.7 * uncertainty[0]
    assert sq.measured.relative_error < early.measured.relative_error
    assert sq.measured.health[0].perplexity > 1.3 * plain.measured.health[0].perplexity
    assert sq.measured.health[0].usage > plain.measured.health[0].usage
    assert sq.measured.relative_error < plain.measured.relative_error


def test_hq_vae(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    stacks = [train_recipe("hq-vae", f"quantizer.levels={levels}") for levels in (1, 2)] + [train_recipe("hq-vae")]
    errors = [trained.measured.relative_error for trained in stacks]
    assert errors[0] > errors[1] > errors[2]
    z, three = latents(stacks[2]), stacks[2].quantizer
    by_level = []
    for level in range(3):
        codes = three.encode(z)
        codes[:, level + 1 :] = -1
        by_level.append(float((three.decode(codes).detach() - z).square().mean()))
    assert by_level[0] > by_level[1] > by_level[2]
    plain = train_like("hq-vae", {"type": "residual", "levels": 3, "inner": {**PLAIN, "size": 32}}, objective="mse")
    assert min(level.usage for level in stacks[2].measured.health) > 0.9
    assert min(level.usage for level in plain.measured.health) < 0.75


def test_reg_vq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    reg, plain = train_recipe("reg-vq"), train_like("reg-vq", {**PLAIN, "size": 256})
    without = train_like("reg-vq", {**reg.config.quantizer, "regulariser": {}})
    for other in (plain, without):
        assert reg.measured.health[0].usage > 1.3 * other.measured.health[0].usage
        assert reg.measured.health[0].perplexity > 1.5 * other.measured.health[0].perplexity
    assert reg.measured.relative_error < 1.05 * plain.measured.relative_error


def test_vq_wae(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    wae, plain = train_recipe("vq-wae"), train_like("vq-wae", {**PLAIN, "size": 256})
    divergences = []
    for trained in (wae, plain):
        cost = torch.cdist(latents(trained), trained.quantizer.codebook.weight.detach()).square()
        weights = relaxed_transport(cost, 0.05 * float(cost.mean()), float(cost.mean()), 200).sum(0)
        divergences.append(float((weights * (weights * 256).log()).sum()))
    assert divergences[0] < 0.05
    assert divergences[0] < 0.5 * divergences[1]
    assert wae.measured.health[0].perplexity > 2 * plain.measured.health[0].perplexity
    assert wae.measured.health[0].usage > 1.5 * plain.measured.health[0].usage


def test_hc_vq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    for seed in (0, 1, 2):
        with_it = train_recipe("hc-vq") if seed == 0 else train_recipe("hc-vq", f"seed={seed}")
        quantizer = {**with_it.config.quantizer, "regulariser": {}}
        without = train_like("hc-vq", quantizer, seed=seed)
        assert with_it.measured.health[0].bits > without.measured.health[0].bits + 0.05
        assert with_it.measured.relative_error < 1.02 * without.measured.relative_error
