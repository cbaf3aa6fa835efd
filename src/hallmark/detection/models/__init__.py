"""Detectors that are given a network, one module each: ``Params`` and ``detect(network, trusted, params, runtime)``.

``trusted`` are clean labelled images (:class:`~hallmark.data.dataset.ImageDataset`) that the network was not trained
on.  What is returned is a :class:`~hallmark.detection.finding.Finding` whose ``classes`` are the evidence against each
class of being the target of a backdoor.
"""

from hallmark.registry import Registry

registry = Registry("hallmark.detection.models", "model detector", ("Params", "detect"))
