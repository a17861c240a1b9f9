"""Is everything there, and how does the whole study run?

In: a study.
Out: checks before anything is paid for; every notebook executed, resumable.
Notebook: none: ``make study`` and Snakemake.
"""
