"""How does a figure or a table become a file?

In: a Plotly figure.
Out: HTML, JSON and, where Chrome is found, SVG and PNG, in the project's style.
Notebook: 01, 03, 07, 08.
"""

from xlm_utils.draw.canvas import BELOW, finish, save
