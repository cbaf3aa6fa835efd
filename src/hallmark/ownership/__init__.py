"""An ownership claim's documents: commitments, their openings, time stamps, encryption and signatures.

What each of them proves, and what every party can still cheat at, is in docs/ownership.md.
"""
