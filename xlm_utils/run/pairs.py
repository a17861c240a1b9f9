"""Published pairs that a study can name: ``python -m xlm_utils.run.pairs`` lists them, ``--check`` asks the hub what it says of them."""

import argparse
import sys

from xlm_utils.models import hub
from xlm_utils.run.checks import in_gib
from xlm_utils.study import StudyError
from xlm_utils.study.inputs import listed
from xlm_utils.study.settings import read_pair


def show(name: str, check: bool = False) -> int:
    """Print a pair, what it takes, and with ``check`` what the hub says of its models; returns how many can't be had. A StudyError: no such pair."""
    pair, failed = read_pair(name), 0
    print(f"{name}: {pair.title} (language {pair.language}), {pair.run}")
    for constituent in pair.constituents.values():
        print(f"  {constituent.role:<10} {constituent.weights}, {constituent.revision or 'newest'}; licence: {constituent.licence or 'unverified'}")
        try:
            if check:
                found = hub.about(constituent.weights, constituent.revision)
                said = ", ".join(f"{key} {found[key] or 'not named'}" for key in ("license", "base_model"))
                print(f"  {'':<10} hub: {found['commit'][:8]}, {found['parameters'] / 1e9:.2g} B, {in_gib(found['to_download'])}, {said}")
        except StudyError as error:
            print(f"  {'':<10} hub: {error}")
            failed += 1
    print(f"  ancestor:  {pair.ancestor}")
    whole, one = in_gib(2e9 * pair.billions * len(pair.constituents)), in_gib(2e9 * pair.billions)
    print(f"  it takes:  {one} to load one model in 16 bits, {whole} of disk and {one} a merge (arithmetic)\n")
    return failed


def main() -> None:
    """Command line: names of pairs, or all."""
    parser = argparse.ArgumentParser(description="Published pairs for `pair:` in a study's file, with licences, size and what they take.")
    parser.add_argument("names", nargs="*", metavar="pair")
    parser.add_argument("--check", action="store_true", help="ask the hub for commit, size, licence and what each was made from")
    asked = parser.parse_args()
    try:
        failed = sum(show(name, asked.check) for name in asked.names or listed("pairs"))
    except StudyError as error:
        sys.exit(f"error: {error}")
    sys.exit(f"{failed} models can't be had" if failed else 0)


if __name__ == "__main__":
    main()
