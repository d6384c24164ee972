"""The discriminator that is trained beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from napari_dmgn.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from napari_dmgn.training.processes import Processes, seeded
from napari_dmgn.training.settings import TrainConfig

__all__ = ["Adversary"]


class Adversary:
    """The discriminator and its optimiser (Adam with pix2pix's betas).

    Parameters
    ----------
    config : TrainConfig
    processes : Processes
    autocast : callable
        Makes the context that the discriminator runs in.
    """

    def __init__(
        self, config: TrainConfig, processes: Processes, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self.config = config
        self._autocast = autocast
        self._processes = processes
        with seeded(config.seed + 1):
            self.network = PatchDiscriminator(
                width=config.discriminator_width,
                spectral_norm=config.spectral_norm,
                unit_slope=config.spectral_norm and config.adversarial == "critic",
                last_bias=config.adversarial == "hinge",
            )
        self.network.to(processes.device)
        self._wrapped = processes.wrap(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.discriminator_rate, betas=(0.5, 0.999))

    @contextmanager
    def undone_by_errors(self) -> Iterator[None]:
        """Where this context is left by an exception, an interrupt too, the discriminator is as it was before.

        Every pass advances what the spectral norm remembers; a step that is not done must not.
        """
        kept = [buffer.clone() for buffer in self.network.buffers()]
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), kept, strict=True):
                    buffer.copy_(before)
            raise

    def judge(self, background: Tensor, image: Tensor) -> Tensor:
        """Return the generator's loss (Eq. 13); leaves no gradient in the discriminator."""
        self.network.requires_grad_(False)
        try:
            with self._autocast():
                judged = self.network(background, image)
            return generator_loss(judged)
        finally:
            self.network.requires_grad_(True)

    def learn(self, fake: Tensor, real: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the discriminator's loss (Eq. 14) and its gradients; nothing is changed yet.

        Parameters
        ----------
        fake, real, image : (N, 3, H, W) float tensors
            The generated background, the true one, and what they belong to.

        Returns
        -------
        loss, norm : scalar tensors
            And the gradient's norm, which is clipped.
        """
        # Both at once: no operation couples them, and each process passes its wrapper once.
        with self._autocast():
            judged = self._wrapped(torch.cat([real, fake.detach()]), torch.cat([image, image]))
        of_real, of_fake = judged.chunk(2)
        loss = discriminator_loss(of_real, of_fake, self.config.adversarial)
        self.optimiser.zero_grad(set_to_none=True)
        self._processes.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        return loss.detach(), norm

    def step(self, share: float) -> None:
        """Change the weights, at a share of the highest rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.discriminator_rate * share
        self.optimiser.step()
