"""All verdicts on one page: the last table of each replicate_*.md, without where its numbers are from.

python experiments/verdicts.py        writes experiments/verdicts.md
"""

from pathlib import Path

from vitmem.files import write_atomically

HERE = Path(__file__).parent
VERDICTS = ("agrees", "disagrees", "mixed", "not testable here", "open", "answered")
LAST = "replicate_questions.md"  # the only page of questions, not of claims
HEAD = """# Verdicts

What the works that vitmem exists to test claim, and what was measured: agrees, disagrees, mixed, not testable here,
or open; of the reviewers' questions, answered or open. Each page says from which committed results, and by which
command. Written by `python experiments/verdicts.py`.
"""


def last_table(page: str) -> list[list[str]]:
    """Return the lines of cells of the table that a page ends in, header first.

    Raises:
        ValueError: it ends in something else, or a line has more or fewer cells than the header.
    """
    lines = page.rstrip().splitlines()
    start = len(lines)
    while start and lines[start - 1].startswith("|"):
        start -= 1
    body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    if len(body) < 3 or any(len(line) != len(body[0]) for line in body):
        raise ValueError(f"{lines[0]}: it does not end in a table whose lines have as many cells as its header")
    return [body[0], *body[2:]]


def page(folder: Path) -> str:
    """Return the page of all verdicts of a folder of experiments.

    Raises:
        ValueError: a page does not end in such a table, or in a verdict that is none of ``VERDICTS``.
    """
    files = sorted(folder.glob("replicate_*.md"), key=lambda file: (file.name == LAST, file.name))
    parts, counts = [HEAD], dict.fromkeys(VERDICTS, 0)
    for file in files:
        text = file.read_text()
        header, *body = last_table(text)
        for line in body:
            found = next((verdict for verdict in VERDICTS if line[-1].startswith(verdict)), None)
            if found is None:
                raise ValueError(f"{file.name}: {line[-1]!r} is no verdict; it must begin with {', '.join(VERDICTS)}")
            counts[found] += 1
        parts += [f"## [{text.splitlines()[0].lstrip('# ')}]({file.name})", ""]
        parts += [f"| {' | '.join([*line[:-2], line[-1]])} |" for line in (header, ["---"] * len(header), *body)]
        parts.append("")
    parts[0] += f"\n{', '.join(f'{verdict} {count}' for verdict, count in counts.items())}.\n"
    return "\n".join(parts)


if __name__ == "__main__":
    write_atomically(HERE / "verdicts.md", page(HERE))
