"""Helpers behind the numbered notebooks: one folder ("wing") per phase of the study, entered by its door.

Importing the package is cheap; each file imports its heavy libraries where it uses them.
"""

import gc

__version__ = "0.1.0"
gc.set_threshold(*gc.get_threshold()[:2], 1000)  # 700,000 objects of libraries and data are no garbage; to look took a third of a notebook's time
