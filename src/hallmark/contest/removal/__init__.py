"""Every removal against marked victims and their stolen copies, over seeds: what a thief must pay to be free.

``plan`` says what cells there are, ``run`` does the work of one victim, ``table`` turns the rows into tables and
pictures; ``command`` and ``command_table`` are the command lines.  Victims and thieves are those of
:mod:`hallmark.contest.watermark`.
"""
