"""The victim as the thief sees it: images in, probabilities out, every image counted."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hallmark import models
from hallmark.data.dataset import to_float
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime

Query = Callable[[Tensor], Tensor]
"""From float images ``[B, C, H, W]`` in 0-1 to float32 probabilities ``[B, K]``, both on the CPU."""


class Oracle:
    """A victim with a query budget.

    Args:
        query: answers images; a model in memory (:func:`black_box`) or one behind a service.
        budget: images that it may be asked in all.
    """

    def __init__(self, query: Query, budget: int) -> None:
        self._query, self.budget, self.used = query, budget, 0

    @property
    def left(self) -> int:
        """Images that may still be asked."""
        return self.budget - self.used

    def __call__(self, images: Tensor) -> Tensor:
        """Probabilities ``[B, K]`` of uint8 images ``[B, C, H, W]``, the form in which images are sent.

        Raises:
            UserError: the budget does not suffice; nothing is asked then.
        """
        if len(images) > self.left:
            raise UserError(
                f"query budget exceeded: {len(images):,} images asked, {self.left:,} of {self.budget:,} left; "
                "raise the attack's budget"
            )
        self.used += len(images)
        return self._query(to_float(images))


def black_box(network: Network, runtime: Runtime) -> Query:
    """A model in memory behind the interface of a service."""
    return lambda images: models.probabilities(network, images, runtime)
