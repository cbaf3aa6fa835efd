"""Self-supervised encoders: SimCLR, probes on frozen features, marks that survive the theft of an encoder, thieves.

An encoder is the trunk of a :class:`hallmark.models.Network`: it is trained and asked through ``network.features``.
Stored as a model folder it carries a linear probe as its head, so that one folder is an encoder (its features) and a
classifier (its logits).
"""
