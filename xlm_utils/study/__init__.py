"""What is to be run, where, and is it done already?

In: a preset of ``params/`` and the parameters of a notebook.
Out: a validated :class:`Study` with its folders; files with manifests.
Notebook: every one.
"""

from xlm_utils.study.inputs import PARAMS, ROOT, StudyError, relative
from xlm_utils.study.study import Study, open_study, pick_device
