"""How is an LLM asked over an API?

In: a card of ``params/judges`` and prompts.
Out: replies, each kept as it arrives: paced, priced, never paid for twice.
Notebook: 02 and 05, through their own wings.
"""

from xlm_utils.ask.calls import afford
