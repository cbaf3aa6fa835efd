"""SSLGuard (Cong, He and Zhang, "SSLGuard: A Watermarking Scheme for Self-supervised Learning Pre-trained Encoders",
CCS 2022), the rival of MEA-Defender for encoders.

A decoder turns the features of *triggered* images into the owner's secret vector, and those of plain images, or of the
clean encoder, into something else.  A shadow encoder, trained beside on the marked encoder's features as a thief would
train, must give the vector as well.  The paper's parts in compact form: the clean encoder is SimCLR's with the same
training as the unmarked twin's; embedding goes on from there with losses of equal weight; a query is verified if the
cosine of decoded and secret vector exceeds 0.5.

The trigger's pattern is learnt as well, through marked encoder, shadow and clean encoder; where it stands (``mask``) is
drawn.  Deviations: of cosines that are to vanish the mean of the squares counts, in place of the square of the mean;
the utility is a squared distance in standard deviations, not a cosine; the decoder fits features of one size.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from hallmark import models, training
from hallmark.config import Count, NonNegative, Positive, Training
from hallmark.config import Params as Block
from hallmark.data.dataset import ImageDataset, to_float, to_uint8
from hallmark.errors import UserError
from hallmark.models import Network
from hallmark.runtime import Runtime
from hallmark.ssl import simclr
from hallmark.ssl.measures import Panel, share
from hallmark.ssl.probes import Encode
from hallmark.ssl.schemes import Stage

THRESHOLD = 0.5
"""Cosine above which a query is verified."""


class Params(Block):
    """Block of the scheme ``sslguard``."""

    size: Annotated[int, Field(ge=2, le=4096)] = 64
    """Of the secret vector."""
    hidden: Count = 128
    """Of the decoder."""
    trigger: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Share of the pixels that the pattern replaces, drawn at random."""
    trigger_lr: Positive = 0.05
    """Of the pattern, whose pixels are the sigmoid of what is learnt."""
    training: Training = Training(epochs=4, batch_size=100, lr=1e-3)
    """Of the embedding, after that of the clean encoder."""
    shadow_lr: Positive = 2e-3
    utility: NonNegative = 1.0
    """Weight of the distance to the clean encoder's features."""


class _Stored(Block):
    """The mark's numbers: mask and pattern ``[H W]`` and ``[C H W]``, secret ``[S]``, the decoder's tensors."""

    shape: tuple[Count, Count, Count]
    mask: list[bool]
    pattern: list[Annotated[int, Field(ge=0, le=255)]]
    secret: list[float]
    decoder: dict[str, list[Any]]


@dataclass(frozen=True)
class GuardMark:
    """Trigger, decoder and secret vector.

    Attributes:
        mask: bool ``[1, H, W]``, where the pattern stands.
        pattern: uint8 ``[C, H, W]``.
        secret: unit vector ``[S]``.
        decoder: from features to S.
    """

    mask: Tensor
    pattern: Tensor
    secret: Tensor
    decoder: nn.Sequential

    def triggered(self, images: Tensor) -> Tensor:
        """uint8 images ``[N, C, H, W]`` with the pattern on them."""
        return torch.where(self.mask, self.pattern, images)

    def rates(self, encode: Encode, panel: Panel, count: int, runtime: Runtime) -> dict[str, float | None]:
        """See :class:`hallmark.ssl.schemes.Mark`: accuracies, and ``own_wsr``; 0 for features of another size.

        Raises:
            UserError: images of another shape than the mark's, or fewer than ``count``.
        """
        if tuple(panel.test.shape) != tuple(self.pattern.shape):
            raise UserError(f"sslguard: the mark is for images of shape {tuple(self.pattern.shape)}")
        if count > len(panel.test):
            raise UserError(f"sslguard: {count:,} queries are asked for, {len(panel.test):,} images are there")
        chosen = torch.randperm(len(panel.test), generator=runtime.generator("ssl/queries"))[:count]
        features = encode(self.triggered(panel.test.images[chosen]))
        return {**panel.rates(encode, None, runtime), "own_wsr": share(self.similarity(features) > THRESHOLD)}

    @torch.no_grad()
    def similarity(self, features: Tensor) -> Tensor:
        """Cosine of decoded and secret vector, ``[N]``; -1 where the decoder cannot take such features."""
        if features.shape[1] != _inputs(self.decoder):
            return torch.full((len(features),), -1.0)
        return F.cosine_similarity(self.decoder(features), self.secret[None])

    def to_json(self) -> dict[str, Any]:
        """See :class:`hallmark.ssl.schemes.Mark`."""
        return {
            "shape": list(self.pattern.shape),
            "mask": self.mask.flatten().tolist(),
            "pattern": self.pattern.flatten().tolist(),
            "secret": self.secret.tolist(),
            "decoder": {name: tensor.tolist() for name, tensor in self.decoder.state_dict().items()},
        }


def read_mark(value: Any, where: str) -> GuardMark:
    """See :mod:`hallmark.ssl.schemes`.

    Raises:
        UserError: not such a mark.
    """
    try:
        stored = _Stored.model_validate_json(json.dumps(value))
        c, h, w = stored.shape
        tensors = {name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in stored.decoder.items()}
        hidden, size = tensors["0.weight"].shape
        decoder = _decoder(size, hidden, len(stored.secret))
        decoder.load_state_dict(tensors)
        mask = torch.tensor(stored.mask).view(1, h, w)
        pattern = torch.tensor(stored.pattern, dtype=torch.uint8).view(c, h, w)
        return GuardMark(mask, pattern, torch.tensor(stored.secret), decoder.requires_grad_(False))
    except (ValidationError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{where}: not a mark of sslguard ({' '.join(str(error).split())[:200]})") from None


def strike(
    network: Network,
    data: ImageDataset,
    params: Params,
    stage: Stage,
    *,
    callback: training.EpochCallback = training.no_callback,
) -> GuardMark:
    """See :mod:`hallmark.ssl.schemes`; ``callback`` gets the embedding's losses, after SimCLR's."""
    runtime, purpose = stage.runtime, stage.purpose
    simclr.train(network, data.images, stage.simclr, stage.training, runtime, purpose=purpose, callback=callback)
    clean = copy.deepcopy(network).eval().requires_grad_(False)
    mean, spread = (v.to(runtime.device) for v in models.standardisation(models.features(clean, data.images, runtime)))
    mark = _draw(data, len(mean), params, runtime, f"{purpose}/sslguard")
    decoder = mark.decoder.to(runtime.device)
    secret, mask = mark.secret.to(runtime.device), mark.mask.to(runtime.device)
    pattern = nn.Parameter(to_float(mark.pattern).clamp(0.02, 0.98).logit().to(runtime.device))
    painter = torch.optim.Adam([pattern], params.trigger_lr)
    shadow = models.build(network.spec.architecture, data.images, data.classes, runtime, f"{purpose}/shadow").train()
    learner = torch.optim.Adam(list(shadow.trunk.parameters()), params.shadow_lr, foreach=True)
    images = data.images.to(runtime.device)

    def cosine(features: Tensor) -> Tensor:
        return F.cosine_similarity(decoder((features.float() - mean) / spread), secret[None])

    def losses(index: Tensor) -> Mapping[str, Tensor]:
        if pattern.grad is not None:  # of the batch before
            painter.step()
            painter.zero_grad(set_to_none=True)
        plain = to_float(images[index]).contiguous(memory_format=torch.channels_last)
        triggered = torch.where(mask, pattern.sigmoid(), plain).contiguous(memory_format=torch.channels_last)
        found, marked = network.features(torch.cat([plain, triggered])).split(len(plain))
        _step(learner, lambda: ((shadow.features(plain) - found.detach()) / spread).square().mean())
        # As a copy answers: its averages are of plain images.  It learns nothing here, but the pattern does.
        shadow.eval().requires_grad_(False)
        (copied, copied_plain), (untouched, wanted) = (
            each.features(torch.cat([triggered, plain])).split(len(plain)) for each in (shadow, clean)
        )
        shadow.train().requires_grad_(True)
        return {
            "utility": ((found - wanted) / spread).square().mean(),
            "verification": 1 - cosine(marked).mean(),
            "shadow": 1 - cosine(copied).mean(),
            **{
                name: cosine(features).square().mean()
                for name, features in {
                    "plain": found,
                    "plain_shadow": copied_plain,
                    "plain_clean": wanted,
                    "clean": untouched,
                }.items()
            },
        }

    training.fit(
        nn.ModuleList([network.trunk, decoder]),
        len(images),
        losses,
        params.training,
        runtime,
        purpose=f"{purpose}/sslguard",
        combine=training.weighted_sum({"utility": params.utility}),
        callback=callback,
    )
    network.eval()
    painted = to_uint8(pattern.detach().sigmoid().cpu())
    return GuardMark(mark.mask, painted, mark.secret, _unstandardised(decoder.cpu(), mean.cpu(), spread.cpu()))


def _draw(data: ImageDataset, size: int, params: Params, runtime: Runtime, purpose: str) -> GuardMark:
    """Trigger and secret, and a fresh decoder."""
    generator, (c, h, w) = runtime.generator(purpose), data.shape
    mask = torch.rand(1, h, w, generator=generator) < params.trigger
    pattern = to_uint8(torch.rand(c, h, w, generator=generator))
    secret = F.normalize(torch.randn(params.size, generator=generator), dim=0)
    with runtime.seeded(f"{purpose}/decoder"):
        return GuardMark(mask, pattern, secret, _decoder(size, params.hidden, params.size))


def _decoder(size: int, hidden: int, output: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, output))


def _inputs(decoder: nn.Sequential) -> int:
    return next(decoder.parameters()).shape[1]


def _step(learner: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    """One step of the shadow encoder, beside the victim's own."""
    learner.zero_grad(set_to_none=True)
    loss().backward()
    learner.step()


def _unstandardised(decoder: nn.Sequential, mean: Tensor, spread: Tensor) -> nn.Sequential:
    """The same decoder for raw features: mean and spread are folded into its first layer."""
    first = decoder[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ mean)
    return decoder.eval().requires_grad_(False)
