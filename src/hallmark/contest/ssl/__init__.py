"""Every mark of encoders against every thief of encoders, over architectures and seeds.

``plan`` says what cells there are, ``run`` does the work of one victim, ``table`` turns the rows into tables;
``command`` is the command line.
"""
