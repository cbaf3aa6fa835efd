"""Kinds of suspects, one module each: ``Params`` and ``open_suspect(params, classes, shape, runtime, where)``."""
