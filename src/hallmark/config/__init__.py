"""Typed, frozen, validated parameters: one class a section of params.yaml.

Parameters of interchangeable methods (a poison, an extraction attack, ...) are typed in the method's
own module as ``Params``; the section holds them as a plain block until the method is looked up.
"""

from __future__ import annotations

from hallmark.config._base import (
    FILE_NAME,
    ClassLabel,
    Count,
    FileName,
    NonNegative,
    Params,
    Positive,
    Share,
    named_block,
    parse,
    read_params,
    section,
)
from hallmark.config._data import (
    PoisonData,
    PrepareData,
    PretrainedDiffusion,
    PurifyData,
    Repair,
    Restore,
    Rounds,
    TrainDiffusion,
)
from hallmark.config._networks import (
    Architecture,
    RuntimeConfig,
    Training,
)
from hallmark.config._ownership import (
    BackdoorDetection,
    Balance,
    EvalBackdoor,
    ExtractAttack,
    FirstPhase,
    KeyParams,
    LossWeights,
    MeaDefender,
    Rehearsal,
    RemoveWatermark,
    StopEarly,
    TrainControls,
    TrainNulls,
    TrainUnmarked,
    TrainWatermarked,
    VerifyOwnership,
    WatermarkSamples,
)

__all__ = [
    "FILE_NAME",
    "Architecture",
    "BackdoorDetection",
    "Balance",
    "ClassLabel",
    "Count",
    "EvalBackdoor",
    "ExtractAttack",
    "FileName",
    "FirstPhase",
    "KeyParams",
    "LossWeights",
    "MeaDefender",
    "NonNegative",
    "Params",
    "PoisonData",
    "Positive",
    "PrepareData",
    "PretrainedDiffusion",
    "PurifyData",
    "Rehearsal",
    "RemoveWatermark",
    "Repair",
    "Restore",
    "Rounds",
    "RuntimeConfig",
    "Share",
    "StopEarly",
    "TrainControls",
    "TrainDiffusion",
    "TrainNulls",
    "TrainUnmarked",
    "TrainWatermarked",
    "Training",
    "VerifyOwnership",
    "WatermarkSamples",
    "named_block",
    "parse",
    "read_params",
    "section",
]
