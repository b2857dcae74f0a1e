"""README.md from nbs/index.ipynb: the words, the code and the saved outputs that a reader on GitHub should see."""
import base64, re

from execnb.nbio import read_nb
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults, add_links

HEADER = '<!-- Written by `make docs` from nbs/index.ipynb; edit that -->\n'


def for_github(md: str) -> str:
    "Markdown whose links work from the repository's top: notebooks live in nbs/, Quarto's divs do not exist"
    md = re.sub(r'\]\((?![a-z]+:|#|/|\.\./)([^)\s]+)\)', r'](nbs/\1)', md)
    md = md.replace('](../', '](')
    return re.sub(r'^:::.*\n?', '', md, flags=re.M)


def output(out, docs: str, digest, alt: str) -> str:
    "One saved output as Markdown; a picture is the file that the site shows"
    if out.output_type == 'stream':
        return '' if out.name == 'stderr' else '```text\n' + ''.join(out.text).rstrip() + '\n```'
    data = out.get('data', {})
    for mime in ('image/png', 'image/jpeg'):
        if mime in data:
            name = digest(base64.b64decode(data[mime]))
            return f'![{alt}]({docs}/figures/{name}.{mime[6:].replace("jpeg", "jpg")})'
    if 'text/html' in data: return re.sub(r'<style.*?</style>\n?', '', ''.join(data['text/html']), flags=re.S).strip()
    if 'text/markdown' in data: return for_github(''.join(data['text/markdown']))
    return '```text\n' + ''.join(data.get('text/plain', '')).rstrip() + '\n```'


def make(path, docs: str, digest) -> str:
    "The README as text: `docs` is the folder that has the pictures, `digest` names them"
    nb = read_nb(path)
    NBProcessor(nb=nb, procs=[p for p in FilterDefaults().procs() if p is not add_links]).process()
    fm = nb.frontmatter_
    parts = [HEADER, f'# {fm["title"]}', f'> {fm["description"]}' if 'description' in fm else '']
    for cell in nb.cells[1:]:
        src = cell.source.strip()
        if cell.cell_type == 'markdown': parts.append('' if 'WARNING: THIS FILE' in src else for_github(src))
        if cell.cell_type != 'code': continue
        opts = dict(re.findall(r'^#\|\s*([\w-]+):\s*(.+)$', src, flags=re.M))
        code = re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip()
        if code and opts.get('echo') != 'false': parts.append(f'```python\n{code}\n```')
        alt = opts.get('fig-alt', opts.get('fig-cap', 'Picture made by the course')).strip('"\'')
        if opts.get('output') != 'false': parts += [output(o, docs, digest, alt) for o in cell.outputs]
    return '\n\n'.join(p.strip('\n') for p in parts if p) + '\n'
