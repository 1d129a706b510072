"""Non-transferable examples in JAX: images that one authorized model reads and others do not (arXiv 2510.10982).

The public names stand in `__init__.pyi`. Each is imported when it is first asked for, so that nobody waits for what is not used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
