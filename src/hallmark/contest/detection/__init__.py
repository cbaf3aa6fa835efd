"""Every detector of backdoored models against clean, watermarked and really backdoored models, over seeds.

``plan`` says what models there are, ``run`` trains one and asks the detectors, ``table`` turns the cells into tables
and pictures; ``command`` is the command line.
"""
