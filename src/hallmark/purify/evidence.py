"""What the default sanitizer measures of every image, in one pass over the purified ones."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

from hallmark import models
from hallmark.models import Network
from hallmark.purify import reserve
from hallmark.purify.repair import PURPOSE
from hallmark.purify.reserve import Judges
from hallmark.purify.result import Material
from hallmark.purify.resume import weights
from hallmark.purify.transplant import hosts_for, transplant, usable_hosts
from hallmark.runtime import derive_seed

RESIDUALS = 64
"""Numbers that are kept of a residual: along the strongest directions of a sample of them."""
SAMPLE, SAMPLE_VALUES = 2000, 1 << 27
"""That sample: at most so many images, and so many pixel values together."""


@dataclass(frozen=True)
class Evidence:
    """What is measured of a set of images.

    Attributes:
        labels: int64 ``[N]``, the given ones.
        features: float ``[N, D]``, the witness's, of the raw image.
        confidence: float ``[N]``, the witness's probability of the label, raw image.
        purified: float ``[N, K]``, the witness's probabilities of the purified image.
        doubts: float ``[N, 2]``, the judges' doubt in the label, raw and purified image.
        hits: float ``[N]``, share of the hosts that take the label with the image's residual.
        residual: float ``[N, R]``, what the purifier takes away, see :func:`residual_basis`.
    """

    labels: Tensor
    features: Tensor
    confidence: Tensor
    purified: Tensor
    doubts: Tensor
    hits: Tensor
    residual: Tensor

    def of(self, rows: Tensor) -> Evidence:
        """The evidence of some of the images (bool ``[N]``)."""
        return Evidence(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def doubt(self) -> Tensor:
        """Mean over raw and purified image, float ``[N]``."""
        return self.doubts.mean(1)

    def raw(self) -> Evidence:
        """What the raw images alone show; what the purifier had a part in is the same for all.

        For a purifier that does not treat given and trusted images alike.
        """
        return replace(
            self,
            purified=torch.zeros_like(self.purified),
            doubts=self.doubts[:, :1].expand_as(self.doubts),
            hits=torch.zeros_like(self.hits),
            residual=torch.zeros_like(self.residual),
        )

    def confident_doubt(self) -> Tensor:
        """High where a model that knows the given set is sure and those that do not disagree, float ``[N]``."""
        return self.doubt() * self.confidence


def sample_size(material: Material) -> int:
    """How many images :func:`residual_basis` looks at."""
    values = material.data.images[0].numel()
    return min(len(material.data) + len(material.reserve), SAMPLE, max(RESIDUALS, SAMPLE_VALUES // values))


def residual_basis(material: Material) -> Tensor:
    """The strongest directions of the residuals of a random sample of given and trusted images, drawn alike.

    Returns:
        float32 ``[R, C*H*W]``, orthonormal rows; R is :data:`RESIDUALS` at most.
    """
    n, m = len(material.data), len(material.reserve)
    order = torch.randperm(n + m, generator=material.runtime.generator("purify/residual sample"))
    drawn = order[: sample_size(material)].sort().values
    parts = []

    def residual(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        return {"residual": (candidates[:, 0].short() - candidates[:, 1].short()).flatten(1)}

    for data, rows, purpose in (
        (material.data, drawn[drawn < n], PURPOSE),
        (material.reserve, drawn[drawn >= n] - n, reserve.PURPOSE),
    ):
        if len(rows):
            parts.append(material.purifier.scan(data.images, residual, purpose, rows=rows, depends={})["residual"])
    points = torch.cat(parts).float().numpy()
    parts.clear()
    seed = derive_seed(material.runtime.seed, "purify/residual basis") % (1 << 32)
    with threadpool_limits(1):  # several threads would add up in another order from run to run
        pca = PCA(min(RESIDUALS, *points.shape), svd_solver="randomized", random_state=seed).fit(points)
    return torch.from_numpy(pca.components_).float()


def measure(
    witness: Network, judges: Judges, material: Material, *, hosts_per_image: int, basis: Tensor, trusted: bool
) -> Evidence:
    """All evidence of the given or of the trusted images."""
    data, purpose = (material.reserve, reserve.PURPOSE) if trusted else (material.data, PURPOSE)
    runtime = material.runtime
    hosts = usable_hosts(witness, material.reserve, runtime)
    chosen = hosts_for(data.labels, hosts, hosts_per_image, runtime.generator(f"{purpose}/hosts"))
    draws = runtime.generator(f"{purpose}/judges")
    judged_by = judges.folds if trusted else judges.for_strangers(data.labels, material.reserve.labels, draws)
    basis = basis.to(runtime.device)

    def look(index: Tensor, candidates: Tensor) -> dict[str, Tensor]:
        labels, (image, purified) = data.labels[index], candidates.unbind(1)
        both, twice, by = torch.cat([image, purified]), labels.repeat(2), judged_by[:, index].repeat(1, 2)
        doubts = reserve.doubt(judges, both, twice, material, by).view(2, -1)
        features, logits = models.features_and_logits(witness, both, runtime)
        raw, clean = logits.softmax(1).chunk(2)
        return {
            "confidence": raw.gather(1, labels[:, None])[:, 0],
            "purified": clean,
            "doubts": doubts.T.contiguous(),
            "hits": transplant(witness, image, purified, labels, hosts=hosts.images[chosen[index]], runtime=runtime),
            "features": features[: len(index)],
            "residual": ((image.float() - purified.float()).flatten(1) @ basis.T).cpu(),
        }

    depends = {
        "labels": data.labels,
        "basis": basis,
        "judged by": judged_by,
        "hosts": hosts.images,
        "hosts chosen": chosen,
        **weights(witness=witness),
        **judges.weights(),
    }
    return Evidence(labels=data.labels, **material.purifier.scan(data.images, look, purpose, depends=depends))
