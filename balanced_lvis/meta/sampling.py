"""
The Meta Sampler in its original form, for image classification: learned sampling rates of classes.

Shape shorthand: B samples of a batch, K classes, C outputs of the classifier, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations import Activation
from ..utils.errors import InputError
from .learner import Batch, OneStepLearner, unchanged


class MetaSampler(nn.Module):
    """
    Samples the classes of a batch at learned rates, differentiably.

    The rates are softmax(psi) or, if counts n_j are given, proportional to n_j sigma(psi_j), with psi = 0 at the start.
    The former starts with class-balanced sampling. The latter starts with instance-balanced sampling, as the authors'
    code for CIFAR: it draws each image at a rate proportional to sigma(psi) of its class.

    A class is sampled by the Gumbel-max trick: the argmax of z + g, with z the logarithm of the rates and g from the
    standard Gumbel distribution, is class j with the probability of its rate. The straight-through estimator (Jang et
    al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017) gives each sample the weight 1 with the gradient
    of softmax((z + g) / tau) at the sampled class. Multiplied by the inner losses of the samples, these weights carry
    the gradient of the outer loss to psi; see :class:`balanced_lvis.meta.RateLearner`.

    Args:
        num_classes: K.
        tau: temperature of the relaxation; it affects gradients only, not the rates.
        counts: (K,) number of samples of each class, all positive; None for rates softmax(psi).

    Raises:
        InputError: if ``tau`` is not positive, ``num_classes`` below 1, or ``counts`` are not K positive numbers.
    """

    log_counts: Tensor | None

    def __init__(self, num_classes: int, tau: float = 1.0, counts: Sequence[float] | None = None):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"MetaSampler: num_classes is {num_classes}; it must be at least 1.")
        if not tau > 0:
            raise InputError(f"MetaSampler: tau is {tau}; it must be positive.")
        self.tau = tau
        self.psi = nn.Parameter(torch.zeros(num_classes))
        # Not in the state dict: counts follow from the dataset.
        self.register_buffer("log_counts", _log_counts(counts, num_classes), persistent=False)

    def _log_rates(self) -> Tensor:
        """(K,) up to a constant, differentiable in psi."""
        return self.psi if self.log_counts is None else self.log_counts + F.logsigmoid(self.psi)

    def rates(self) -> Tensor:
        """(K,) probabilities of the classes."""
        return self._log_rates().detach().softmax(dim=0)

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
        relaxed = F.softmax((self._log_rates() + noise) / self.tau, dim=1)
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


def _log_counts(counts: Sequence[float] | None, num_classes: int) -> Tensor | None:
    if counts is None:
        return None
    numbers = [float(n) for n in counts]
    if len(numbers) != num_classes:
        raise InputError(f"MetaSampler: counts has {len(numbers)} numbers for {num_classes} classes; give one each.")
    if not all(n > 0 for n in numbers):
        raise InputError(
            f"MetaSampler: a class has the count {min(numbers):g}; leave out classes without samples, as their rates "
            "can't be learned."
        )
    return torch.tensor(numbers, dtype=torch.float64).log().float()


class RateLearner(OneStepLearner):
    """
    Learns the rates of a :class:`MetaSampler` by looking one step of the classifier ahead: Balanced Meta-Softmax.

    Ren et al. (NeurIPS 2020). In each iteration of the second stage:

    1. Draw a batch at the learned rates, and a class-balanced meta batch.
    2. :meth:`step`: make one step of the classifier on the balanced loss of the batch, for looking ahead only, and
       update the rates by the gradient of its **unshifted** loss on the meta batch.
    3. Train the classifier on the same batch, with the balanced loss.

    Example::

        sampler = MetaSampler(num_classes, counts=prior.image_count)
        learner = RateLearner(activation, sampler)
        indices, weights = sampler.draw(samples_of_class, batch_size)
        batch = features_of(indices), labels[indices]
        learner.step(classifier, batch, weights, meta_batch, inner_lr=lr)
        loss = activation.loss(classifier(batch[0]), batch[1])

    Args:
        activation: ``loss`` is used at the inner level, ``unshifted_loss`` at the outer level.
        sampler: whose rates are learned.
        lr: learning rate of Adam; 0 keeps the rates.

    Raises:
        InputError: if ``lr`` is negative.
    """

    def __init__(self, activation: Activation, sampler: MetaSampler, lr: float = 0.01):
        super().__init__(activation, sampler, lr)
        self.sampler = sampler

    def outer_loss(
        self, classifier: nn.Module, batch: Batch, weights: Tensor, meta_batch: Batch, inner_lr: float
    ) -> Tensor:
        """
        Args:
            classifier: (B, D) features to (B, C) logits. Not changed.
            batch: features (B, D) and gt_classes (B,) of the samples that were drawn.
            weights: (B,), as the sampler returned them with these samples. psi must not have changed since.
            meta_batch: features and classes of the class-balanced batch.
            inner_lr: learning rate of the inner step.

        Returns:
            scalar, differentiable in psi through the inner step.

        Raises:
            InputError: if ``weights`` carry no gradient.
        """
        if not weights.requires_grad:
            raise InputError(
                "RateLearner: weights carry no gradient; pass those that MetaSampler returned with the batch, drawn "
                "outside of torch.no_grad()."
            )
        return self._outer_loss(classifier, batch, weights.to(batch[0].device), meta_batch, inner_lr)

    def step(
        self,
        classifier: nn.Module,
        batch: Batch,
        weights: Tensor,
        meta_batch: Batch,
        inner_lr: float,
        average: Callable[[Tensor], Tensor] = unchanged,
    ) -> Tensor:
        """
        Update the rates once; further arguments as for :meth:`outer_loss`.

        Args:
            average: mean of a gradient over processes, so that all have the same rates.

        Returns:
            scalar, the outer loss before the update.
        """
        return self._update(self.outer_loss(classifier, batch, weights, meta_batch, inner_lr), average)
