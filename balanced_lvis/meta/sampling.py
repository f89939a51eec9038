"""
The Meta Sampler in its original form, for image classification: learned sampling rates of classes.

Shape shorthand: B samples of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils.errors import InputError


class MetaSampler(nn.Module):
    """
    Samples the classes of a batch at learned rates softmax(psi), differentiably.

    A class is sampled by the Gumbel-max trick: the argmax of psi + g, with g from the standard Gumbel distribution, is
    class j with probability softmax(psi)_j. The straight-through estimator (Jang et al., Categorical Reparameterization
    with Gumbel-Softmax, ICLR 2017) gives each sample the weight 1 with the gradient of softmax((psi + g) / tau) at the
    sampled class. Multiplied by the inner losses of the samples, these weights carry the gradient of the outer loss to
    psi; see :func:`balanced_lvis.meta.one_step_ahead`.

    Args:
        num_classes: K. All classes start at the same rate: class-balanced sampling.
        tau: temperature of the relaxation; it affects gradients only, not the rates.

    Raises:
        InputError: if ``tau`` is not positive or ``num_classes`` below 1.
    """

    def __init__(self, num_classes: int, tau: float = 1.0):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"MetaSampler: num_classes is {num_classes}; it must be at least 1.")
        if not tau > 0:
            raise InputError(f"MetaSampler: tau is {tau}; it must be positive.")
        self.tau = tau
        self.psi = nn.Parameter(torch.zeros(num_classes))

    def rates(self) -> Tensor:
        """(K,) probabilities of the classes."""
        return self.psi.detach().softmax(dim=0)

    def forward(self, num_samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            num_samples: B.
            generator: random generator of the Gumbel noise; None for torch's global one.

        Returns:
            classes: (B,) int64.
            weights: (B,) ones, whose gradient with respect to psi is that of the relaxed sample.
        """
        uniform = torch.rand(num_samples, len(self.psi), generator=generator, device=self.psi.device)
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        relaxed = F.softmax((self.psi + noise) / self.tau, dim=1)
        classes = relaxed.detach().argmax(dim=1)
        chosen = relaxed.gather(1, classes[:, None])[:, 0]
        return classes, 1 + (chosen - chosen.detach())

    def draw(
        self, samples_of_class: Sequence[Sequence[int]], num_samples: int, generator: torch.Generator | None = None
    ) -> tuple[list[int], Tensor]:
        """
        Sample a batch: classes at the learned rates, then one sample of each class, uniformly.

        Args:
            samples_of_class: K lists of indices into a dataset.
            num_samples: B.
            generator: random generator; None for torch's global one.

        Returns:
            indices: B indices into the dataset.
            weights: (B,), as from :meth:`forward`.

        Raises:
            InputError: if there are not K lists, or if one is empty, as the rate of that class can't be learned.
        """
        if len(samples_of_class) != len(self.psi):
            raise InputError(
                f"MetaSampler: samples_of_class has {len(samples_of_class)} lists for {len(self.psi)} classes; give "
                "one per class."
            )
        empty = [j for j, samples in enumerate(samples_of_class) if not len(samples)]
        if empty:
            raise InputError(
                f"MetaSampler: class {empty[0]} has no samples; leave out such classes ({len(empty)} in all)."
            )
        classes, weights = self(num_samples, generator)
        at = torch.rand(num_samples, generator=generator, device=self.psi.device).tolist()
        lists = [samples_of_class[j] for j in classes.tolist()]
        return [samples[int(u * len(samples))] for samples, u in zip(lists, at)], weights
