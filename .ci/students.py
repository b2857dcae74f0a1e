"""The students' edition in tinycourse/notebooks: stubs of the lessons, and the records that they quote.

    python .ci/students.py           write it
    python .ci/students.py --check   make it elsewhere and fail when something differs
"""
import filecmp, shutil, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinycourse.lessons import write_lessons
from tinycourse.records import read_rows

LIMIT = 100_000  # bytes; the predictions of 33,000 images stay in the repository


def quoted(results: Path) -> list:
    "Records that lessons quote"
    rows = read_rows(results/'records.yml').values()
    return [o.name for o in rows if any(p.startswith('lessons/') for p in o.pages) and (results/o.name).is_dir()]


def build(dest: Path):
    "The whole edition"
    write_lessons(ROOT/'nbs'/'lessons', dest)
    results, records = ROOT/'nbs'/'results', dest/'records'
    shutil.rmtree(records, ignore_errors=True)
    records.mkdir()
    shutil.copy(results/'records.yml', records)
    for name in quoted(results):
        (records/name).mkdir()
        small = [p for p in (results/name).iterdir() if p.suffix in ('.csv', '.json') and p.stat().st_size < LIMIT]
        for p in small: shutil.copy(p, records/name)


def differing(a: Path, b: Path) -> list:
    "Names of files that are not the same in two folders"
    names = {p.relative_to(d).as_posix() for d in (a, b) for p in d.rglob('*') if p.is_file()}
    same = lambda n: (a/n).is_file() and (b/n).is_file() and filecmp.cmp(a/n, b/n, shallow=False)
    return sorted(n for n in names if not same(n))


if __name__ == '__main__':
    there = ROOT/'tinycourse'/'notebooks'
    if '--check' not in sys.argv: build(there)
    else:
        with tempfile.TemporaryDirectory() as tmp:
            build(Path(tmp)/'notebooks')
            if bad := differing(Path(tmp)/'notebooks', there): sys.exit(f'run `make docs`, which rewrites tinycourse/notebooks: {", ".join(bad[:5])}')
