"""Every attack against every sanitizer, repair, rate and seed, on small networks, in one process a set.

``plan`` says what cells there are, ``run`` does the work of one set, ``table`` turns the rows into tables and
pictures; ``command`` and ``command_table`` are the command lines.
"""
