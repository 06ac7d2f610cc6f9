"""Builds README and the pages of docs as a book in target/book. Needs mdbook.

What pages link to outside of them comes along where it is a file; where it is a folder the link is left out.
"""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "target/book-source"
BESIDE = ["BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md"]
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def main():
    if not shutil.which("mdbook"):
        sys.exit("no mdbook: cargo install mdbook")
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE / "docs")
    shutil.move(SOURCE / "docs/book.toml", SOURCE / "book.toml")
    for page in ["README.md", *BESIDE]:
        shutil.copy(ROOT / page, SOURCE)
    pages = (SOURCE / "docs/SUMMARY.md").read_text().replace("](", "](docs/")
    (SOURCE / "docs/SUMMARY.md").unlink()
    last = "".join(f"- [{page.removesuffix('.md').capitalize()}]({page})\n" for page in BESIDE)
    summary = pages.replace("# Summary\n", "# Summary\n\n[datafusion-ches](README.md)\n", 1)
    (SOURCE / "SUMMARY.md").write_text(f"{summary.rstrip()}\n\n# The project\n\n{last}")
    pages = list(SOURCE.rglob("*.md"))
    for page in pages:
        page.write_text(LINK.sub(lambda link: within(page, link), page.read_text()))
    # What mdbook calls index.html, also in links.
    for page in pages:
        page.write_text(re.sub(r"\(([^)\s:]*)README\.md", r"(\1index.md", page.read_text()))
        if page.name == "README.md":
            page.rename(page.with_name("index.md"))
    subprocess.run(["mdbook", "build", SOURCE], check=True)


def within(page, link):
    """The link if it leads to something in the book, and otherwise its text."""
    text, target = link[1], link[2]
    if "://" in target or (page.parent / target).is_file():
        return link[0]
    place = (page.parent / target).resolve()
    original = ROOT / place.relative_to(SOURCE.resolve())
    if original.is_dir() or original.suffix == ".md":
        return text
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(original, place)
    return link[0]


if __name__ == "__main__":
    main()
