"""Make README.md and pyproject.toml ready to be built for PyPI, where relative links lead nowhere.

`python docs/make_release.py --repository https://github.com/OWNER/NAME --tag v0.1.0` checks that the tag is the version
and that the changelog has its section, and then changes both files in place: `.github/workflows/release.yml` does it in
its own checkout. Nothing in the tree knows the repository's address.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADING = "[project.urls]\n"
LINK = re.compile(r"```.*?```|`[^`]*`|(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)", re.DOTALL)
"""A link or picture; or code, which is matched so that nothing in it is taken for a link."""
OUTSIDE = re.compile(r"[a-z]+:|#")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", required=True, help="its address, as https://github.com/OWNER/NAME")
    parser.add_argument("--tag", required=True, help="the tag that is built, as v0.1.0")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout; default: the one of this script")
    options = parser.parse_args()
    root, repository = options.root, options.repository.rstrip("/")
    if wrong := problem(root, options.tag):
        sys.exit(f"error: {wrong}")
    readme, project = root / "README.md", root / "pyproject.toml"
    described = with_absolute_links(readme.read_text(), repository, options.tag)
    declared = with_urls(project.read_text(), repository, options.tag)
    readme.write_text(described)
    project.write_text(declared)


def problem(root: Path, tag: str) -> str | None:
    """What keeps the tree from being released under this tag, and what to do."""
    found = re.search(r'^__version__ = "(.*)"$', (root / "ntt_cli/__init__.py").read_text(), re.MULTILINE)
    assert found
    version = found[1]
    if tag != f"v{version}":
        return f"the tag is {tag}, and ntt_cli.__version__ is {version}: tag v{version}, or change the version first"
    section = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(?:(?!## \[).*\n)*?- "
    if not re.search(section, (root / "CHANGELOG.md").read_text(), re.MULTILINE):
        return f"CHANGELOG.md has no entries below '## [{version}] - YYYY-MM-DD': move those of [Unreleased] there"
    if "Source" in tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]:
        return "pyproject.toml names the repository already: start from a clean checkout"
    return None


def with_absolute_links(markdown: str, repository: str, tag: str) -> str:
    """The text with relative links to the tag's files, and pictures to their bytes."""

    def absolute(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or OUTSIDE.match(target):
            return found[0]
        return f"{found['text']}({repository}/{'raw' if found[0].startswith('!') else 'blob'}/{tag}/{target})"

    return LINK.sub(absolute, markdown)


def with_urls(pyproject: str, repository: str, tag: str) -> str:
    """`pyproject.toml` with the addresses that PyPI shows beside a project."""
    urls = {
        "Source": repository,
        "Documentation": f"{repository}/blob/{tag}/README.md#documents",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    before, heading, after = pyproject.partition(HEADING)
    assert heading
    return before + heading + "".join(f'{name} = "{url}"\n' for name, url in urls.items()) + after


if __name__ == "__main__":
    main()
