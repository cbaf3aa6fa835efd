"""Contests: everything of a kind against everything of another, over seeds, on small networks, resumable.

One package each: ``purification`` (attack x sanitizer), ``detection`` (model x detector), ``watermark`` (scheme x
thief), ``ssl`` (the same of encoders), ``removal`` (target x removal).  In each, ``plan`` says what cells there are,
``run`` does the work of one task, ``table`` turns the rows into tables and pictures, ``command`` is the command line.
What they share is here: ``options`` and ``workers`` of the commands, ``parameters`` and ``marks`` of the plans,
``cells`` and ``rows`` of what is measured.
"""
