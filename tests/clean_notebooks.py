"""Copy executed notebooks for committing: outputs stay; timings, progress bars and injected cells go.

Execution counts become 1, 2, 3 …: the same after every run, and nbval takes a cell without one for
a cell that never ran.
"""

import re
import sys
from pathlib import Path

import nbformat

# as JupyterLab writes it, or opening a notebook would change it; language_info is the kernel's own
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def is_noise(output: nbformat.NotebookNode) -> bool:
    """Whether an output is progress (a widget, the line of benchmarks that only slow machines show) or a line on stderr."""
    data = output.get("data", {})
    counted = set(data) == {"text/plain"} and re.fullmatch(r"benchmark: [\d,]+ of [\d,]+ \w+", "".join(data["text/plain"]))
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in data or bool(counted)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run though nothing changed."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": notebook.metadata.language_info})
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if not is_noise(output)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if "metadata" in output:
                output.metadata = nbformat.from_dict({kind: about for kind, about in output.metadata.items() if kind == "image/png"})  # in words
    return notebook


def main(source: str, target: str) -> None:
    """Clean every notebook of one folder into another."""
    for path in sorted(Path(source).glob("*.ipynb")):
        notebook = clean(nbformat.read(path, as_version=4))
        nbformat.write(notebook, Path(target) / path.name)
        print(f"{path.name}: {(Path(target) / path.name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
