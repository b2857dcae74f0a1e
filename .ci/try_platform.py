"""Does the wheel of this tree work where readers open the course? In an environment as Colab or Kaggle has it:

    python .ci/try_platform.py colab|kaggle|plain [--own-torch] [--all]

Makes `.venv-colab` or `.venv-kaggle` from the pins in `.ci/NAME.txt`, installs the wheel, for which pip may change
none of them but those marked `# renewed`, runs lesson 01 on the sample, and exports and loads what it trained.
Then lesson 14: the wheel is installed with the extra that its first cell asks for there. `plain` is an environment
without pins: what `pip install` finds today. torch is the one of requirements-dev.txt, so that it need not be fetched
again; `--own-torch` takes the platform's.

`--all` goes through all doors: it lays out the students' edition in an empty folder and runs every lesson. Nothing may
fail but stubs, with NotImplementedError; then the cell is run again with the answer of the edition with solutions,
which must pass, and the lesson goes on. A stub that nobody misses is a failure, too.
"""
import argparse, json, os, re, subprocess, sys, tempfile, time, venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT/'nbs'/'lessons'
TORCH = ('torch', 'torchvision')
RUN = """
import sys
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
shell = CaptureShell('.')
shell.run_all(read_nb(sys.argv[1]), exc_stop=True)
if shell.exc: raise shell.exc
"""
RUN_BOTH = """
import sys, time
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
shell,start = CaptureShell('.'),time.process_time()
student,solved = (read_nb(o).cells for o in sys.argv[1:])

def run(cell, *may_fail):
    shell.cell(cell)
    error,shell.exc = shell.exc,None
    if error and not isinstance(error, may_fail): sys.exit(f'{cell.source}\\n{type(error).__name__}: {error}')
    return error

stubs,waiting = 0,[]
for cell,answer in zip(student, solved, strict=True):
    if cell.cell_type != 'code': continue
    if cell.source != answer.source: waiting.append(answer)
    if not run(cell, *[NotImplementedError]*bool(waiting)): continue
    if waiting[-1] is not answer: waiting.append(answer)
    stubs += 1
    for o in waiting: run(o)
    waiting = []
if waiting: sys.exit(f'nothing fails without this answer:\\n{waiting[0].source}')
used = time.process_time() - start
print(f'{used:.0f} s of a core; {stubs} stubs stopped with NotImplementedError, and passed when answered')
"""
SEND = """
names = shell.user_ns
names['learn'].export('lesson.pkl')
from fastai.vision.all import load_learner
image = names['tiny_items'](names['path']).path[0]
with (again := load_learner('lesson.pkl')).no_bar(): answer = again.predict(image)[0]
print(f"accuracy {names['accuracy']:.1%}; exported, loaded, and it says {answer!r}")
"""


def name(requirement: str) -> str:
    "The package that a line asks for, as pip spells it"
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0]).lower()


def read_pins(file: Path) -> tuple:
    "Package -> version, and the packages marked `# renewed`"
    lines = [l for l in file.read_text(encoding='utf-8').splitlines() if re.match(r'[\w.-]+==', l)]
    pins = {name(l): re.split('[ ;#]', l.split('==')[1])[0] for l in lines}
    return pins, {name(l) for l in lines if '# renewed' in l}


def timed(words: str, *cmd, cwd=ROOT) -> str:
    "Run a command; one line that says how long it took, or its last words and the end"
    t = time.time()
    env = {**os.environ, 'NO_ALBUMENTATIONS_UPDATE': '1', 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore'}
    r = subprocess.run([str(c) for c in cmd], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors='replace')
    if r.returncode: sys.exit(f'{words}: FAILED\n' + '\n'.join(r.stdout.strip().splitlines()[-30:]))
    print(f'  {words:<60} {time.time()-t:6.1f} s', flush=True)
    return r.stdout


def check_wheel(pip: list, wheel: str, pins: dict, renewed: set):
    "Stop if pip would change other pins than it may"
    said = timed('what pip would change', *pip, 'install', '--dry-run', '--report', '-', wheel)
    packages = [o['metadata'] for o in json.loads(said[said.index('{'):])['install']]
    would = {name(o['name']): o['version'] for o in packages}
    would.pop('tinycourse')
    print('    ' + (', '.join(f'{k} {pins.get(k, "(new)")} -> {v}' for k, v in would.items()) or 'nothing'))
    odd = renewed.symmetric_difference(set(would) & set(pins))
    if odd: sys.exit(f'{", ".join(sorted(odd))}: settings.ini and the marks `# renewed` in .ci/ disagree')


def first_and_last(python: Path, folder: Path):
    "Lesson 01 with export and load, then lesson 14"
    first = timed('lesson 01, export, load', python, '-c', RUN + SEND, LESSONS/'01_see_it_work.ipynb', cwd=folder)
    print('    ' + first.strip().splitlines()[-1])
    timed('lesson 14', python, '-c', RUN, LESSONS/'14_put_it_to_use.ipynb', cwd=folder)


def all_doors(python: Path, folder: Path):
    "Run each lesson as students get it; where a stub stops it, give the answer of the edition with solutions and go on"
    for kind, options in ('student', []), ('solved', ['--solutions']):
        timed(f'lessons, {kind}', python.parent/'tinycourse', 'lessons', folder/kind, *options, cwd=folder)
    notebooks = sorted((folder/'student').rglob('[0-9]*.ipynb'))
    if len(notebooks) != len(list(LESSONS.glob('[0-9]*.ipynb'))): sys.exit(f'{len(notebooks)} lessons laid out')
    for nb in notebooks:
        answers = folder/'solved'/nb.relative_to(folder/'student')
        script = RUN_BOTH + SEND*nb.stem.startswith('01')
        said = timed(nb.stem, python, '-c', script, nb, answers, cwd=folder/'student')
        for line in said.strip().splitlines()[-1-nb.stem.startswith('01'):]: print('    ' + line, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('platform', choices=['colab', 'kaggle', 'plain'])
    p.add_argument('--own-torch', action='store_true', help="the platform's torch, not that of requirements-dev.txt")
    p.add_argument('--all', action='store_true', help='every lesson: as students get it, then with answers')
    args = p.parse_args()
    pins, renewed = read_pins(ROOT/'.ci'/f'{args.platform}.txt') if args.platform != 'plain' else ({}, set())
    ours, _ = read_pins(ROOT/'requirements-dev.txt')
    if not args.own_torch: pins.update({k: ours[k] for k in TORCH})
    home = ROOT/f'.venv-{args.platform}'
    python = home/'bin'/'python'
    pip = [python, '-m', 'pip', '-q', '--disable-pip-version-check']
    said = ', '.join(f'{k} {pins.get(k, "as pip finds it")}' for k in ('torch', 'fastai', 'fastcore'))
    print(f'==> {args.platform}: {len(pins)} pins, Python {sys.version.split()[0]}, {said}', flush=True)

    if not python.exists(): venv.create(home, with_pip=True)
    if pins: timed('pins installed', *pip, 'install', *(f'{k}=={v}' for k, v in pins.items()))
    with tempfile.TemporaryDirectory() as tmp:
        timed('wheel built', *pip, 'wheel', '--no-deps', '-w', tmp, ROOT)
        wheel, = Path(tmp).glob('*.whl')
        timed('no older wheel', *pip, 'uninstall', '-y', 'tinycourse')
        wanted = f'{wheel}[export]'
        check_wheel(pip, wanted, pins, renewed)
        timed('wheel installed', *pip, 'install', wanted)
        timed('execnb, to run the lessons', *pip, 'install', '--no-deps', 'execnb==0.1.18')
        print(f'    the wheel has {wheel.stat().st_size/1000:,.0f} kB', flush=True)
        (all_doors if args.all else first_and_last)(python, Path(tmp))
    print(f'==> {args.platform}: all well')


if __name__ == '__main__': main()
