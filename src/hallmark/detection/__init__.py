"""Does a model hide a backdoor, and is somebody stealing it?

``models`` holds detectors that are given a network, ``queries`` those that are given what it was asked.  Both say the
same, a :class:`~hallmark.detection.finding.Finding`; :mod:`hallmark.detection.calibration` turns its score into a
decision with a known rate of false alarms.
"""
