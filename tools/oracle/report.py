"""What the report writers share: where it ran, and tables between markers of a page."""

import os
import platform
import re
import subprocess


def root():
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", root(), *arguments], capture_output=True, text=True).stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if dirty else "")


def cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read()
    model = re.search(r"model name\s*:\s*(.*)", text)
    flags = re.search(r"flags\s*:\s*(.*)", text)
    widest = next((f for f in ("amx_tile", "avx512f", "avx2") if flags and f in flags[1].split()), "")
    name = model[1].strip() if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores{', ' + widest if widest else ''}"


def versions(python):
    code = "import torch, transformers; print(f'transformers {transformers.__version__}, torch {torch.__version__}')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def replace_section(page, name, text):
    """Rewrites what stands between <!-- name:begin --> and <!-- name:end --> of a page."""
    with open(page, encoding="utf-8") as file:
        old = file.read()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in old or end not in old:
        raise SystemExit(f"{page}: no section {name}")
    head, rest = old.split(begin, 1)
    new = head + begin + "\n" + text.strip() + "\n" + end + rest.split(end, 1)[1]
    with open(page + ".partial", "w", encoding="utf-8") as file:
        file.write(new)
    os.replace(page + ".partial", page)
