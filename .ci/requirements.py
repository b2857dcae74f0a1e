"""What settings.ini asks for, a line for each package: `python .ci/requirements.py [FILE]`

Packages that FILE names are left out: it says itself which versions to take."""
import configparser, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def name(line: str) -> str:
    "The package that a requirement is about"
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]*', line)[0]).lower()


def main():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    asked = (ini['DEFAULT']['requirements'] + ' ' + ini['DEFAULT']['dev_requirements']).split()
    known = {name(l) for file in sys.argv[1:] for l in Path(file).read_text(encoding='utf-8').splitlines()}
    print('\n'.join(o for o in asked if name(o) not in known))


if __name__ == '__main__': main()
