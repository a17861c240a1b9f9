"""Copy executed notebooks for committing: outputs stay; timings, progress bars and injected cells go.

Execution counts become 1, 2, 3 …: the same after every run, and nbval takes a cell without one for
a cell that never ran.
"""

import sys
from pathlib import Path

import nbformat


def is_noise(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar (a widget, or on stderr) or another line on stderr."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run though nothing changed."""
    kernel = notebook.metadata.kernelspec
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
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
                output.metadata = nbformat.from_dict({})
    return notebook


def main(source: str, target: str) -> None:
    """Clean every notebook of one folder into another."""
    for path in sorted(Path(source).glob("*.ipynb")):
        notebook = clean(nbformat.read(path, as_version=4))
        nbformat.write(notebook, Path(target) / path.name)
        print(f"{path.name}: {(Path(target) / path.name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
