"""What is to be run, where, and is it done already?

In: a preset of ``params/`` and the parameters of a notebook.
Out: a validated :class:`Study` with its folders; files with manifests.
Notebook: every one.
"""

from xlm_utils.study.inputs import PARAMS, ROOT, StudyError, read_text, read_yaml, relative, short, shown
from xlm_utils.study.names import parse, read_card
from xlm_utils.study.notebook import Progress, shell
from xlm_utils.study.records import Step, append_jsonl, cached_step, digest, fingerprint, read_jsonl, read_manifest, sha256, write_json, write_text
from xlm_utils.study.settings import Constituent, Language, project_path
from xlm_utils.study.study import Study, commit, open_study, pick_device
