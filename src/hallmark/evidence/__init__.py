"""One folder with everything that a judge needs, and the check that trusts nothing in it (docs/evidence.md)."""
