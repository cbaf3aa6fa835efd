"""Models that may be copies, wherever they are: in memory, in a file, behind HTTP.

All have one interface, :class:`Suspect`: uint8 images ``[N, C, H, W]`` in, an :class:`Answer` in our classes out.
:func:`build` opens what a block of parameters describes; :func:`recording` keeps every answer in a transcript.
Files and servers are untrusted: whatever is wrong with them is a :class:`~hallmark.errors.UserError`.
"""

from hallmark.suspects.answer import NO_CLASS, Answer, Budget, Suspect, Top
from hallmark.suspects.building import build, registry
from hallmark.suspects.consistency import Consistency, ask_again, ask_twice
from hallmark.suspects.majority import Majority
from hallmark.suspects.transcript import Recorded, Replayed, Verified, recording, verify

__all__ = [
    "NO_CLASS",
    "Answer",
    "Budget",
    "Consistency",
    "Majority",
    "Recorded",
    "Replayed",
    "Suspect",
    "Top",
    "Verified",
    "ask_again",
    "ask_twice",
    "build",
    "recording",
    "registry",
    "verify",
]
