"""What settings.ini asks for, a line for each package: `python .ci/requirements.py [--extras] [FILE]`

Packages that FILE names are left out: it says itself which versions to take. With `--extras` those of the extras come
too, if development has them: the tests need what requirements-dev.in names."""
import argparse, configparser, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def name(line: str) -> str:
    "The package that a requirement is about"
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]*', line)[0]).lower()


def named(file: Path) -> set:
    "The packages that a file of requirements names"
    return {name(l) for l in file.read_text(encoding='utf-8').splitlines()}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('file', nargs='*', type=Path, help='what it names is left out')
    p.add_argument('--extras', action='store_true', help='those of the extras too, if development has them')
    args = p.parse_args()
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    cfg = ini['DEFAULT']
    asked = (cfg['requirements'] + ' ' + cfg['dev_requirements']).split()
    if args.extras:
        extras = ' '.join(l.split(':')[1] for l in cfg['extras'].strip().splitlines()).split()
        asked += [o for o in extras if name(o) in named(ROOT/'requirements-dev.in')]
    known = set().union(*map(named, args.file))
    print('\n'.join(o for o in asked if name(o) not in known))


if __name__ == '__main__': main()
