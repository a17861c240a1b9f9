"""LM Evaluation Harness tasks for every column of Table 2; README.md is their card."""
