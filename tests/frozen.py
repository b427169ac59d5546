"""Imported last by the process that others are forked from: its modules are never looked through for garbage again.

The Trainer collects garbage at the end of each training, which takes seconds where everything is imported.
"""

import gc

gc.collect()
gc.freeze()
