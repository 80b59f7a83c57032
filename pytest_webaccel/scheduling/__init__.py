"""Which lanes there are, which tests run on them, and in which worker.

``lanes`` is the table of lanes, ``parametrization`` gives tests their lanes, ``binding`` gives
workers theirs, ``dispatch`` decides who runs what (pure) and ``assignment`` tells xdist so.
``session`` is what one process knows about its run, ``recording`` what the controller keeps of it.
"""
