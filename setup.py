"Everything about the package comes from settings.ini, as in every nbdev project."
import re, shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

licenses = {'apache2': 'Apache-2.0'}
statuses = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}
readme = Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else ''  # `make docs` writes it
raw = f'https://raw.githubusercontent.com/{cfg["user"]}/{cfg["repo"]}/{cfg["branch"]}/'
readme = re.sub(r'!\[([^]]*)\]\((?!https?:)', rf'![\1]({raw}', readme)  # away from GitHub, links must be whole
readme = re.sub(r'(?<!!)\[([^]]*)\]\((?!https?:|#)', rf'[\1]({cfg["git_url"]}/blob/{cfg["branch"]}/', readme)
extras = dict(line.split(':') for line in cfg['extras'].strip().splitlines())
minor = int(cfg['min_python'].split('.')[1])

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme,
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license=licenses[cfg['license']],
    classifiers=[
        f'Development Status :: {cfg["status"]} - {statuses[cfg["status"]]}',
        f'Intended Audience :: {cfg["audience"]}',
        f'Natural Language :: {cfg["language"]}',
        *(f'Programming Language :: Python :: 3.{v}' for v in range(minor, 14)),
    ],
    packages=find_packages(include=[cfg['lib_path'], f'{cfg["lib_path"]}.*']),
    include_package_data=True,
    python_requires=f'>={cfg["min_python"]}',
    install_requires=shlex.split(cfg['requirements']),
    extras_require={'dev': shlex.split(cfg['dev_requirements']), **{k: shlex.split(v) for k,v in extras.items()}},
    entry_points={
        'console_scripts': shlex.split(cfg['console_scripts']),
        'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d'],
    },
    zip_safe=False,
)
