"""Every watermark scheme against every thief, over seeds, on small networks.

``plan`` says what cells there are, ``run`` does the work of one victim, ``table`` turns the rows into tables and
pictures; ``command`` and ``command_table`` are the command lines.
"""
