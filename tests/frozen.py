"""The last import of a server of forks: spares the collector, there and in them, all the others."""

import gc

gc.freeze()
