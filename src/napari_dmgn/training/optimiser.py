"""The optimiser of a run: AdamW, or Muon for the inner 3x3 convolutions and AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OPTIMISERS", "MuonAdamW", "build_optimiser"]

OPTIMISERS = ("adamw", "muon")


def build_optimiser(
    network: nn.Module,
    kind: str = "adamw",
    *,
    rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    muon_rate: float = 4.0,
) -> torch.optim.Optimizer | MuonAdamW:
    """Return the optimiser of a network's trainable parameters.

    Parameters
    ----------
    network : Module
        Placed where it is trained: the optimiser keeps views of its weights.
    kind : str
        "adamw", or "muon": Muon for the 3x3 convolutions between feature maps, AdamW for the rest.
    rate : float
        Learning rate of AdamW.
    betas : pair of float
        Of AdamW.
    weight_decay : float
        Of all parameters but vectors: of convolutions, linear layers and the (C, 1, 1) factors of the
        attention, never of biases.
    muon_rate : float
        Muon's learning rate as a multiple of `rate`; in each group as `rate_scale`.

    Raises
    ------
    ValueError
        Another kind, or "muon" with a torch that has no Muon (before 2.9).
    """
    if kind not in OPTIMISERS:
        raise ValueError(f"unknown optimiser {kind!r}; wanted one of {', '.join(OPTIMISERS)}")
    inner = list(_inner_convolutions(network)) if kind == "muon" else []
    taken = {id(p) for p in inner}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "rate_scale": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "rate_scale": 1.0, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=betas, weight_decay=weight_decay)
    if kind == "adamw":
        return adamw
    return MuonAdamW(inner, adamw, rate=rate * muon_rate, weight_decay=weight_decay, rate_scale=muon_rate)


def _inner_convolutions(network: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of 3x3 convolutions within the network: not those that begin or end one of its parts."""
    for name, module in network.named_modules():
        inner = name.rpartition(".")[2] not in ("stem", "out")
        if inner and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.weight.requires_grad:
            yield module.weight


class MuonAdamW:
    """Muon on some convolutions and AdamW on the rest, with the methods of one optimiser.

    Muon replaces a matrix's momentum by the nearest semi-orthogonal matrix (Jordan et al., 2024,
    torch.optim.Muon), scaled to the size of AdamW's updates (Liu et al., arXiv 2502.16982). A
    convolution is the matrix of its output channels by its inputs (rows, columns, channels).

    Parameters
    ----------
    convolutions : list of (O, C, h, w) parameters
        In channels-last memory, so that the matrix is a view of the weight.
    adamw : AdamW
        Of all other parameters.
    rate, weight_decay : float
        Of Muon.
    rate_scale : float
        Kept in Muon's group for the schedule.
    """

    def __init__(
        self,
        convolutions: list[Tensor],
        adamw: torch.optim.AdamW,
        *,
        rate: float,
        weight_decay: float,
        rate_scale: float,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimiser 'muon' needs torch 2.9 or newer; this is {torch.__version__}")
        self.convolutions = convolutions
        self.matrices = [nn.Parameter(_matrix(p.data)) for p in convolutions]
        for weight, matrix in zip(convolutions, self.matrices, strict=True):
            if matrix.data_ptr() != weight.data_ptr():
                raise ValueError("Muon needs weights in channels-last memory; place the network first")
        self.adamw = adamw
        self.muon = _Muon(
            [{"params": self.matrices, "rate_scale": rate_scale}],
            lr=rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",  # told in its state; `_Muon` knows no other
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, AdamW's first."""
        return [*self.adamw.param_groups, *self.muon.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self.adamw.zero_grad(set_to_none)
        for weight in self.convolutions:
            weight.grad = None

    def step(self) -> None:
        """Update all parameters by their gradients."""
        for weight, matrix in zip(self.convolutions, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        self.muon.step()
        self.adamw.step()
        for matrix in self.matrices:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return both states as one; the positions of parameters count on from AdamW's to Muon's."""
        first, second = self.adamw.state_dict(), self.muon.state_dict()
        shift = self._adamw_parameters
        later = {shift + i: values for i, values in second["state"].items()}
        groups = [{**g, "params": [shift + i for i in g["params"]]} for g in second["param_groups"]]
        return {"state": {**first["state"], **later}, "param_groups": [*first["param_groups"], *groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        shift = self._adamw_parameters
        own = len(self.adamw.param_groups)
        self.adamw.load_state_dict(
            {
                "state": {i: v for i, v in state["state"].items() if i < shift},
                "param_groups": state["param_groups"][:own],
            }
        )
        self.muon.load_state_dict(
            {
                "state": {i - shift: v for i, v in state["state"].items() if i >= shift},
                "param_groups": [
                    {**g, "params": [i - shift for i in g["params"]]} for g in state["param_groups"][own:]
                ],
            }
        )

    @property
    def _adamw_parameters(self) -> int:
        return sum(len(g["params"]) for g in self.adamw.param_groups)


class _Muon(torch.optim.Muon if hasattr(torch.optim, "Muon") else object):  # type: ignore[misc]
    """torch's Muon, Nesterov's and "match_rms_adamw", with all matrices of one shape in one product.

    A GPU waits longer for the launches of single ones than it works on them.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have gradients."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, parameters in alike.items():
                self._update(group, shape, parameters)

    def _update(self, group: dict[str, Any], shape: torch.Size, parameters: list[Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        momentum, rate = group["momentum"], float(group["lr"])
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        ahead = torch.stack([*torch._foreach_lerp(gradients, momenta, momentum)])  # Nesterov's
        updates = _orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        updates = updates.to(ahead.dtype).mul_(-rate * 0.2 * math.sqrt(max(shape)))  # as large as AdamW's
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_add_(parameters, [*updates.unbind()])


def _orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return the semi-orthogonal matrices next to (K, O, I) ones, about, in bfloat16 (Newton-Schulz)."""
    a, b, c = coefficients
    x = x.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _matrix(weight: Tensor) -> Tensor:
    """View (O, C, h, w) in channels-last memory as (O, h w C)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
