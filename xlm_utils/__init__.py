"""Helpers behind the numbered notebooks: one folder ("wing") per phase of the study, entered by its door.

Importing the package is cheap; each file imports its heavy libraries where it uses them.
"""

__version__ = "0.1.0"
