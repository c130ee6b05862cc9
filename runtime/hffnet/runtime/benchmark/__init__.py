"""How fast a bundle is on this machine, what limits it, what it costs in accuracy, and what those figures are worth.

``run`` puts a benchmark together: ``matrix`` opens the rows, ``scenarios`` says how queries follow each other,
``interleave`` lets the rows take turns, ``conditions`` watches the machine meanwhile and ``validity`` judges it.
``report`` is the document; ``tables``, ``page`` and ``compare`` read nothing else.
"""
