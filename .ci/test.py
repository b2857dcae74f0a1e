"""Every check, on the notebooks as they are on disk; nothing in the tree is changed.

    python .ci/test.py [--latest] [--flags "slow cuda"] [NOTEBOOK ...]

Each notebook runs in a process of its own under nbdev's `nbdev_test`, a few at a time. Naming notebooks (any part
of the path will do) runs only those. `--latest` is for an environment with the newest nbdev, fastai and fastcore.
"""
import argparse, ast, json, multiprocessing, os, re, resource, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/'nbs', ROOT/'tinycourse'
BIN = Path(sys.executable).parent
LIMIT = int(os.environ.get('LIMIT', 1800))  # seconds that one notebook may take
TREE = ['settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'nbs', 'tinycourse']
WIDTH = {'api': 120}  # characters in a line of code, by folder of nbs/; 88 in all others
LONGEST = """
lessons/01_see_it_work lessons/05_finding_a_learning_rate api/15_distributed lessons/03_augmentation api/12_learner
lessons/13_cifar10 api/06_packed lessons/07_regularization api/14_gradcam lessons/06_schedules api/30_cli
lessons/04_residual_networks api/17_train lessons/10_where_does_it_look api/20_records api/22_export
lessons/14_put_it_to_use lessons/11_faster api/19_experiments lessons/12_many_gpus api/18_bench api/05_augment
""".split()  # the longest start first, so that all processes end together; 01 trains the network of 09 and 10
PRELOAD = ['nbdev.test', 'fastai.vision.all']  # imported once, by the process of which all that run notebooks are copies


class Skip(Exception): "A check that cannot run here, with the reason"


def notebooks(names=()) -> list:
    "Every notebook of the course, or those whose path contains one of `names`"
    found = sorted(p for p in NBS.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts))
    return [p for p in found if not names or any(n in p.as_posix() for n in names)]


def starts(notebook: Path) -> int:
    "The place of a notebook in the queue: the longest first"
    name = notebook.relative_to(NBS).with_suffix('').as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def run(*cmd, cwd=ROOT, env=None, timeout=None) -> str:
    "Run a command; what it said, or an AssertionError with the end of that"
    try: r = subprocess.run([str(c) for c in cmd], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, text=True, errors='replace', timeout=timeout)
    except subprocess.TimeoutExpired as e: raise AssertionError(f'stopped after {timeout} s') from e
    assert r.returncode == 0, '\n'.join(r.stdout.strip().splitlines()[-60:]) or f'exit status {r.returncode}'
    return r.stdout


def as_test(notebook: Path, flags: str, said: Path):
    "In a process of its own: run a notebook under nbdev_test, and write to the file `said`"
    os.environ['TMPDIR'] = tempfile.tempdir = str(said.parent)  # what it leaves behind goes with the folder
    with open(said, 'wb', buffering=0) as f:
        for stream in (1, 2): os.dup2(f.fileno(), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[0] = ''  # not .ci, whose modules are not for notebooks
    multiprocessing.set_start_method(None, force=True)  # the system's own, not this process's forkserver
    from nbdev.test import nbdev_test
    try: nbdev_test.__wrapped__(path=notebook, flags=flags, n_workers=0)
    finally: Path(f'{said}.cost').write_text(json.dumps(cost()))


def cost() -> list:
    "Seconds of the processor, children's too, and gigabytes of memory at the most, of this process or its largest child"
    used = [resource.getrusage(o) for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 if sys.platform == 'darwin' else 1024  # bytes there, kilobytes elsewhere
    return [sum(o.ru_utime + o.ru_stime for o in used), max(o.ru_maxrss for o in used)*unit/1e9]


def run_notebook(notebook: Path, flags: str) -> str:
    "What a notebook cost; an AssertionError with the end of what it said, if it fails or takes too long"
    with tempfile.TemporaryDirectory() as tmp:
        said = Path(tmp)/'said'
        process = multiprocessing.get_context('forkserver').Process(target=as_test, args=(notebook, flags, said))
        process.start()
        process.join(LIMIT)
        late = process.is_alive()
        if late: process.kill()
        process.join()
        words = '\n'.join(said.read_text(errors='replace').strip().splitlines()[-60:])
        assert not late, f'stopped after {LIMIT} s\n{words}'
        assert process.exitcode == 0, words or f'exit status {process.exitcode}'
        seconds, memory = json.loads(Path(f'{said}.cost').read_text())
    return f'{seconds:5.0f} s of a core, {memory:.1f} GB'


def copy_tree(to: Path):
    "The part of the repository that nbdev reads and writes"
    for name in TREE:
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '_proc'))
        elif (ROOT/name).exists(): shutil.copy(ROOT/name, to/name)


def changed(to: Path, pattern: str) -> list:
    "Files that differ from the repository's after a command ran in the copy"
    names = {p.relative_to(d).as_posix() for d in (ROOT, to) for top in TREE for p in [d/top, *(d/top).rglob('*')]
             if p.is_file() and p.match(pattern) and '.ipynb_checkpoints' not in p.parts}
    same = lambda n: (to/n).is_file() and (ROOT/n).is_file() and (to/n).read_bytes() == (ROOT/n).read_bytes()
    return sorted(n for n in names if not same(n))


def check_clean():
    "Notebooks clean"
    with tempfile.TemporaryDirectory() as tmp:
        copy_tree(Path(tmp))
        run(BIN/'nbdev_clean', cwd=tmp)
        bad = changed(Path(tmp), '*.ipynb')
    assert not bad, f'run `make clean`, which cleans: {", ".join(bad)}'


def mixes_imports(nb) -> list:
    "Cells of an api notebook with imports and other code: nbdev runs those, alone, when it builds the site"
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    exports = lambda s: re.search(r'^#\|\s*(exports?|exporti|exec_doc)\b', s, re.M)
    if not any(map(exports, code)): return []
    has = lambda tree, *types: any(isinstance(n, types) for n in ast.walk(tree))
    plain = [s for s in code if not exports(s) and 'import' in s and not re.search(r'^\s*[%!]|^#\|\s*eval:\s*false', s, re.M)]
    return [s for s in plain if has(ast.parse(s), ast.Import, ast.ImportFrom) and has(ast.parse(s), ast.Expr, ast.Assign)]


def check_manners():
    "Notebook manners"
    bad, here = [], [str(ROOT), *([str(Path.home())] if len(str(Path.home())) > 2 else [])]
    for p in notebooks():
        nb, name = json.loads(p.read_text(encoding='utf-8')), p.relative_to(ROOT)
        first = ''.join(nb['cells'][0]['source']) if nb['cells'] else ''
        if not re.match(r'# \S', first): bad.append(f'{name}: the first cell is not a title (`# ...`)')
        elif [l for l in first.splitlines() if l.strip() and l[0] not in '#>-']:
            bad.append(f'{name}: text beside the title is lost on the site; give it a cell of its own')
        bad += [f'{name}: imports share a cell with other code; give them their own: ' + ' '.join(re.sub('#[|].*', '', s).split()[:6])
                for s in mixes_imports(nb)]
        if p.stat().st_size > 1_000_000: bad.append(f'{name}: {p.stat().st_size/1e6:.1f} MB; keep it under 1 MB')
        prose = '\n'.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
        bad += [f'{name}: Markdown beside </summary> is shown as it is typed; put it after an empty line: {s[:50]}'
                for s in re.findall(r'</summary>[ \t]*(\S.*)', prose) if re.search(r'`|\*\w|\]\(|\$', s)]
        bad += [f'{name}: zsh takes a comment behind a command for arguments; put it above: {l[:60]}'
                for language,block in re.findall(r'^```(\w*)\n(.*?)^```$', prose, re.M | re.S)
                if language in ('', 'bash', 'sh')
                for l in block.splitlines() if re.match(r'(tinycourse|make|pip|git|jupyter|nbgrader)\b.*\s# ', l)]
        outs = [o for c in nb['cells'] for o in c.get('outputs', [])]
        if any(o['output_type'] == 'error' for o in outs): bad.append(f'{name}: an output is an error')
        words = json.dumps([{k: v for k, v in o.get('data', o).items() if not k.startswith('image')} for o in outs])
        bad += [f'{name}: an output names {h}, a folder of this machine' for h in here if h+'/' in words]
    assert not bad, '\n'.join(bad)


def wide_lines(notebook: Path, limit: int) -> list:
    "Lines of code with more characters than `limit`; what a figure is called is no code"
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [l for c in cells if c['cell_type'] == 'code' for l in ''.join(c['source']).splitlines()
            if len(l) > limit and not l.startswith('#| fig-alt:')]


def check_widths():
    "Lines of code are not too wide"
    limits = {p: WIDTH.get(p.relative_to(NBS).parent.as_posix(), 88) for p in notebooks()}
    wide = {p: wide_lines(p, n) for p, n in limits.items()}
    bad = [f'{p.relative_to(NBS)}: {len(lines)} lines of code over {limits[p]} characters, such as {lines[0].strip()[:60]}'
           for p, lines in wide.items() if lines]
    assert not bad, '\n'.join(bad)


def exported(notebook: Path) -> tuple:
    "The module that a notebook exports, and the modules of the course that it imports from"
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    module = re.search(r'^#\|\s*default_exp (\w+)', '\n'.join(code), re.M)
    lines = '\n'.join(s for s in code if re.match(r'#\|\s*exporti?\b', s))
    return module and module[1], set(re.findall(r'^\s*from tinycourse\.(\w+) import', lines, re.M))


def check_numbers():
    "Numbers of api notebooks: unique, imports from smaller ones"
    pages = sorted((NBS/'api').glob('*.ipynb'))
    by_number, bad = {}, []
    for p in pages: by_number.setdefault(p.name.split('_')[0], []).append(p.name)
    twice = [' and '.join(o) for o in by_number.values() if len(o) > 1]
    assert not twice, f'one number, two modules, so that none comes first: {", ".join(twice)}'
    modules = {p.name: exported(p) for p in pages}
    page_of = {module: name for name, (module, _) in modules.items()}
    for name, (_, imports) in modules.items():
        bad += [f'{name} imports from {page_of[o]}' for o in sorted(imports) if o in page_of and page_of[o] >= name]
    assert not bad, f'a module imports only from smaller numbers: {", ".join(bad)}'


def check_gpu():
    "The path of a GPU, on one that does not exist"
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    run(sys.executable, ROOT/'.ci'/'fake_cuda.py', env=env, timeout=LIMIT)


def check_exports():
    "Exports in step"
    with tempfile.TemporaryDirectory() as tmp:
        copy_tree(Path(tmp))
        shutil.rmtree(Path(tmp)/'tinycourse')
        (Path(tmp)/'tinycourse').mkdir()
        shutil.copy(LIB/'__init__.py', Path(tmp)/'tinycourse')
        run(BIN/'nbdev_export', cwd=tmp)
        bad = changed(Path(tmp), '*.py') + changed(Path(tmp), 'pyproject.toml')
        orphans = [n for n in bad if not (Path(tmp)/n).exists()]
    assert not orphans, f'no notebook exports {", ".join(orphans)}: delete it'
    assert not bad, f'run `make export`, which rewrites: {", ".join(bad)}'


def check_exports_latest():
    "Exports in step, but for comments"
    code = lambda p: ast.dump(ast.Module([n for n in ast.parse(p.read_text(encoding='utf-8')).body
                                          if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))], []))
    with tempfile.TemporaryDirectory() as tmp:
        copy_tree(Path(tmp))
        run(BIN/'nbdev-export', cwd=tmp)
        bad = [p.name for p in sorted(LIB.glob('*.py')) if p.name[0] != '_' and code(p) != code(Path(tmp)/'tinycourse'/p.name)]
    assert not bad, f'the newest nbdev exports other code into: {", ".join(bad)}'


def check_records():
    "Records, their list and pages"
    code = """
import json, sys
from pathlib import Path
from tinycourse.records import quoted_records, read_rows, record_faults, records_folder
rows, nbs = read_rows(), Path('nbs')
def code(p): return '\\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code')
pages = [p for folder in ('.', 'lessons') for p in (nbs/folder).glob('*.ipynb')] + [nbs/'api'/'14_gradcam.ipynb']
quoted = {p.relative_to(nbs).with_suffix('').as_posix(): quoted_records(code(p), rows) for p in pages}
sys.exit('\\n'.join(record_faults(rows, records_folder(), quoted)) or None)
"""
    run(sys.executable, '-c', code)


def check_students():
    "Students' edition in step"
    run(sys.executable, ROOT/'.ci'/'students.py', '--check')


def check_exercises():
    "Exercises checked by wrong answers"
    code = """
import json, sys
from pathlib import Path
from tinycourse.lessons import lesson_exercises
bad, n = [], 0
for p in sorted(Path('nbs/lessons').glob('[0-9]*.ipynb')):
    for o in lesson_exercises(json.loads(p.read_text(encoding='utf-8'))):
        n += 1
        if 'check' not in o['check'] or not o['rejects']: bad.append(f'{p.name}: exercise {o["number"]} needs a check and a hidden cell with rejects(...)')
sys.exit('\\n'.join(bad) or None)
"""
    run(sys.executable, '-c', code)


def check_site():
    "Site and README in step"
    if sys.version_info < (3, 11): raise Skip('smalldocs, which builds the site, needs Python 3.11')
    run(sys.executable, ROOT/'.ci'/'docs.py', '--check')


def report(name: str, seconds: float, error=None, cost: str = None):
    "One line for one result, and what went wrong under it"
    word = f'ok {cost or ""}'.rstrip() if error is None else f'skipped: {error}' if isinstance(error, Skip) else 'FAILED'
    print(f'  {name:<44} {seconds:6.1f} s  {word}', flush=True)
    if word == 'FAILED': print('\n'.join(f'      {l}' for l in str(error).splitlines()), flush=True)


def timed(name: str, f):
    "Run one check or notebook: (name, None or what went wrong)"
    t, error, cost = time.time(), None, None
    try: cost = f()
    except (AssertionError, Skip) as e: error = e
    report(name, time.time()-t, error, cost)
    return name, error


CHECKS = [check_clean, check_manners, check_numbers, check_widths, check_exports, check_records, check_students,
          check_exercises, check_site]
BESIDE = [check_gpu]  # takes long, so it runs beside the notebooks


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('names', nargs='*', help='run only notebooks whose path contains one of these')
    p.add_argument('--flags', default='', help='run cells with these flags too: slow, cuda')
    p.add_argument('--latest', action='store_true', help='the newest nbdev: leave out what only the pinned one can check')
    args = p.parse_args()
    start, nbs = time.time(), sorted(notebooks(args.names), key=starts)
    if not nbs: sys.exit(f'no notebook has {args.names} in its path')

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = max(1, min(4, cores//int(os.environ.get('THREADS', 1)), len(nbs)))
    threads = max(1, cores//workers)
    os.environ.update(NO_ALBUMENTATIONS_UPDATE='1', OMP_NUM_THREADS=str(threads), PYTHONWARNINGS='ignore')
    multiprocessing.set_forkserver_preload(PRELOAD)

    checks = [] if args.names else [check_exports_latest] if args.latest else CHECKS
    beside = [] if args.names or args.latest else BESIDE
    if checks: print('==> Checking the tree', flush=True)
    results = [timed(c.__doc__, c) for c in checks]

    flagged = sum(bool(re.search(r'^#\|\s*(slow|cuda)\b', ''.join(c['source']), re.M))
                  for nb in nbs for c in json.loads(nb.read_text(encoding='utf-8'))['cells'])
    print(f'==> Running {len(nbs)} notebooks, {workers} at a time with {threads} thread(s) each'
          f'{f"; {flagged} cells marked slow or cuda" if flagged else ""}', flush=True)
    one = lambda nb: timed(nb.relative_to(NBS).as_posix(), lambda: run_notebook(nb, args.flags))
    t = time.time()
    jobs = [lambda c=c: timed(c.__doc__, c) for c in beside] + [lambda nb=nb: one(nb) for nb in nbs]
    with ThreadPoolExecutor(workers) as pool: results += pool.map(lambda job: job(), jobs)

    failed = [n for n, e in results if e is not None and not isinstance(e, Skip)]
    skipped = [n for n, e in results if isinstance(e, Skip)]
    print(f'==> {len(nbs)} notebooks executed in {time.time()-t:.0f} s, {len(checks+beside)} checks; {time.time()-start:.0f} s in all')
    for n in failed: print(f'    failed: {n}')
    print(f'{len(results)-len(failed)-len(skipped)} passed, {len(failed)} failed' + (f', {len(skipped)} skipped' if skipped else ''))
    sys.exit(bool(failed))


if __name__ == '__main__': main()
