"""Build the site and README.md from the notebooks with their saved outputs; nothing is trained.

    python .ci/docs.py           write docs/ and README.md
    python .ci/docs.py --check   build elsewhere and fail when docs/ or README.md differ

nbdev processes the notebooks (hidden cells, documentation tables, links between names), smalldocs renders
them from nbs/_quarto.yml, and `finish` below settles links, pictures and maths so that the site stands on its
own and is the same byte for byte on every machine.
"""
import base64, filecmp, hashlib, html, io, json, os, posixpath, re, shutil, sys, tempfile
from pathlib import Path

os.environ['IN_TEST'] = '1'  # as nbdev sets it: a notebook that is processed exports nothing
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from execnb.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html, nbglob
from nbdev.process import NBProcessor
from nbdev.quarto import refresh_quarto_yml
from PIL import Image as Picture

import apidocs, links, polish, readme, sheet
from tinycourse.lessons import badges, is_exercise, with_solution, without_solution

cfg = get_config()
ROOT, NBS = cfg.config_path, cfg.nbs_path
SITE = f'{cfg.doc_host}{cfg.doc_baseurl}/'


def page_url(path: str) -> str:
    "The page of a notebook, as nbdev names it: `api/00_core.html` is `api/core.html`"
    return _nbpath2html(Path(path)).as_posix()


def unlink_code(md: str) -> str:
    "Markdown links mean nothing inside a block of code, where nbdev puts them too"
    return re.sub(r'^```.*?^```', lambda m: re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', m[0]), md, flags=re.M | re.S)


def unnest_links(md: str) -> str:
    "nbdev links a name even where the author has linked it already; a link inside a link is none, so the author's stays"
    return re.sub(r'\[([^][\n]*)\[(`[^`\n]+`)\]\([^)\s]*\)([^][\n]*)\]\(', r'[\1\2\3](', md)


def for_readers(nb, name: str):
    "A lesson as the site shows it: badges under the title, stubs for solutions, and the solutions folded below the checks"
    cells, solved = [], None
    for cell in nb.cells:
        if cell.cell_type == 'code' and is_exercise(cell.source):
            solved = with_solution(re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M))
            cell.source = without_solution(cell.source)
            cells.append(cell)
        elif cell.cell_type == 'code' and solved:
            cells += [cell, mk_cell(f'<details><summary>Solution</summary>\n\n```python\n{solved}\n```\n\n</details>', 'markdown')]
            solved = None
        else: cells.append(cell)
    cells.insert(1, mk_cell(badges(name), 'markdown'))
    nb.cells = type(nb.cells)(cells)
    for i, cell in enumerate(nb.cells): cell.idx_ = i


def as_terminal(text: str) -> str:
    "What a terminal shows in the end: a carriage return begins the line again, and progress bars are gone"
    lines = [line.rstrip('\r').rpartition('\r')[2].rstrip() for line in text.split('\n')]
    return '\n'.join(o for o in lines if '|---' not in o and '███' not in o and o != '█')


def is_plot(data: bytes) -> bool:
    "A drawing in few flat colours with white among them, as against photographs: dark mode may turn its lightness around"
    image = Picture.open(io.BytesIO(data)).convert('RGB')
    counts, pixels = image.convert('L').histogram(), image.width*image.height
    flat = sorted((n for n, _ in image.getcolors(pixels)), reverse=True)[:16]
    white = sum(counts[248:])
    return white > .65*pixels or white > .4*pixels and sum(flat) > .95*pixels


def stage(dest: Path):
    "Process every notebook into `dest`, and copy the files beside them"
    for f in sorted(nbglob(file_glob='', skip_file_re=r'^\.', as_path=True)):
        to = dest/f.relative_to(NBS)
        to.parent.mkdir(parents=True, exist_ok=True)
        if f.suffix != '.ipynb':
            shutil.copy(f, to)
            continue
        nb = read_nb(f)
        if f.parent.name == 'lessons': for_readers(nb, f.stem)
        try: NBProcessor(nb=nb, procs=apidocs.processors()).process()
        except Exception as e: sys.exit(f'{f.relative_to(ROOT)}: {e}\n{e.__cause__!r}')
        nb.metadata.pop('widgets', None)
        for cell in (c for c in nb.cells if c.cell_type == 'markdown'): cell.source = unnest_links(cell.source)
        for out in (o for c in nb.cells for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})):
            out.data['text/markdown'] = unlink_code(''.join(out.data['text/markdown']))
        for cell in (c for c in nb.cells if '\r' in ''.join(''.join(o.get('text', '')) for o in c.get('outputs', []))):
            for out in (o for o in cell.outputs if 'text' in o): out.text = as_terminal(''.join(out.text))
            cell.outputs = [o for o in cell.outputs if ''.join(o.get('text', 'x')).strip()]
        nb.cells[0].source = re.sub(r'^output-file:.*\n', '', nb.cells[0].source, flags=re.M)  # `finish` does it
        write_nb(nb, to)
        text = to.read_text(encoding='utf-8')  # Python 3.13 says where Path really lives; readers need not know
        to.write_text(text.replace('pathlib._local.', 'pathlib.'), encoding='utf-8')


def sizes(dest: Path) -> dict:
    "The width that notebooks ask for, for pictures saved at twice the resolution: digest -> pixels"
    res = {}
    for f in dest.rglob('*.ipynb'):
        for cell in read_nb(f).cells:
            for out in cell.get('outputs', []):
                for mime, b64 in out.get('data', {}).items():
                    width = out.get('metadata', {}).get(mime, {}).get('width')
                    if mime == 'image/png' and width: res[digest(base64.b64decode(b64))] = width
    return res


def digest(data: bytes) -> str: return hashlib.sha256(data).hexdigest()[:12]


def mathml(tex: str, block: bool) -> str:
    "TeX to MathML, which browsers draw without a script"
    from latex2mathml.converter import convert
    return convert(html.unescape(tex).strip(), display='block' if block else 'inline')


def finish(site: Path, widths: dict):
    "Settle every page's links, pictures and maths, and give it the name nbdev uses"
    pages = {p.relative_to(site).as_posix(): p.read_text(encoding='utf-8') for p in sorted(site.rglob('*.html'))}
    ids = {page_url(name): set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    figures = site/'figures'

    def link(page, m):
        attr, url = m.groups()
        own = url.startswith(SITE)
        if own: url = posixpath.relpath(url[len(SITE):] or 'index.html', posixpath.dirname(page) or '.')
        elif re.match(r'[a-z]+:|//', url): return m[0]
        path, _, frag = url.partition('#')
        if path.endswith('.html'): path = page_url(path)
        if own and frag:  # a method without a section of its own: its class, else the page
            there = ids.get(posixpath.normpath(posixpath.join(posixpath.dirname(page), path)), set())
            while frag and frag not in there: frag = frag.rpartition('.')[0]
        return f'{attr}="{path}{"#" * bool(frag)}{frag}"'

    def picture(page, m):
        data = base64.b64decode(m[2])
        name = f'{digest(data)}.{m[1].replace("jpeg", "jpg")}'
        figures.mkdir(exist_ok=True)
        (figures/name).write_bytes(data)
        src = posixpath.relpath(f'figures/{name}', posixpath.dirname(page) or '.')
        size = ''
        if m[1] == 'png':
            w, h = (int.from_bytes(data[i:i+4], 'big') for i in (16, 20))
            shown = widths.get(digest(data), w)
            size = f' width="{shown}" height="{round(h*shown/w)}"' + ' data-plot'*is_plot(data)
        return f'src="{src}"{size} loading="lazy"'

    for name, text in pages.items():
        page = page_url(name)
        text = re.sub(r'src="data:image/(png|jpeg|gif);base64,([^"]+)"', lambda m: picture(page, m), text)
        text = re.sub(r'\b(href|src)="([^"]*)"', lambda m: link(page, m), text)
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>',
                      lambda m: mathml(m[2], m[1] == 'display'), text, flags=re.S)
        text = re.sub(r'\s*<(link|script)\b[^>]*/katex@[^>]*>(</script>)?', '', text)
        text = polish.polish(text, SITE + page.removesuffix('index.html'))
        (site/name).unlink()
        assert not (site/page).exists(), f'two notebooks would become {page}'
        (site/page).write_text(text, encoding='utf-8')

    for css in (site/'site_libs').rglob('*.css'):  # the themes ask for fonts that styles.css does not use
        css.write_text(re.sub(r'@import (url\()?"?https?:[^;]*;', '', css.read_text(encoding='utf-8')), encoding='utf-8')
    shutil.copy(Path(__file__).parent/'search.js', site/'site_libs'/'fuse'/'fuse.min.js')  # words instead of letters
    script = site/'site_libs'/'smalldocs.js'
    script.write_text(polish.search_marks(script.read_text(encoding='utf-8')), encoding='utf-8')
    search = json.loads((site/'search.json').read_text(encoding='utf-8'))
    for entry in search:
        if entry['href'].startswith('api/'): entry['text'] = entry['text'][:2000]  # long listings; lessons stay whole
        for key in ('href', 'objectID'):
            path, hash_, frag = entry[key].partition('#')
            entry[key] = page_url(path) + hash_ + frag
    (site/'search.json').write_text(json.dumps(search, ensure_ascii=False, indent=0), encoding='utf-8')
    (site/'sitemap.xml').write_text(polish.sitemap([SITE + page_url(n).removesuffix('index.html') for n in pages]), encoding='utf-8')
    index = (site/'index.html').read_text(encoding='utf-8')
    (site/'404.html').write_text(polish.not_found(index, cfg.doc_baseurl.rstrip('/') + '/'), encoding='utf-8')
    (site/'.nojekyll').touch()


def build(dest: Path) -> Path:
    "Build the site and README.md inside `dest`; returns the site's folder"
    from smalldocs.site import build as render
    refresh_quarto_yml()
    stage(dest/'pages')
    rendered = render(dest/'pages', quiet=True)
    site = rendered.out
    finish(site, sizes(dest/'pages'))
    sheet.put(site)
    (dest/'README.md').write_text(readme.make(NBS/cfg.readme_nb, cfg.doc_path.name, digest), encoding='utf-8')
    problems = list(rendered.warnings) + links.check(site, ROOT, dest/'README.md')
    if problems: sys.exit('\n'.join(['The site has problems:'] + problems))
    return site


def differences(a: Path, b: Path) -> list:
    "Files that are not the same in two folders"
    names = {p.relative_to(d).as_posix() for d in (a, b) for p in d.rglob('*') if p.is_file()}
    return sorted(n for n in names if not ((a/n).is_file() and (b/n).is_file() and filecmp.cmp(a/n, b/n, shallow=False)))


def main(check: bool):
    yml = NBS/'nbdev.yml'  # written from settings.ini by nbdev
    was = yml.read_text() if yml.exists() else ''
    sheet.settle(write=not check)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        site = build(tmp)
        pages = len(list(site.rglob('*.html')))
        if not check:
            shutil.rmtree(cfg.doc_path, ignore_errors=True)
            shutil.copytree(site, cfg.doc_path)
            shutil.copy(tmp/'README.md', ROOT/'README.md')
            return print(f'==> docs/: {pages} pages, every link lands. Open docs/index.html')
        old = [f'docs/{n}' for n in differences(site, cfg.doc_path)]
        if not (ROOT/'README.md').exists() or (tmp/'README.md').read_bytes() != (ROOT/'README.md').read_bytes(): old.append('README.md')
        if yml.read_text() != was:
            old.append('nbs/nbdev.yml')
            yml.write_text(was)
        if old: sys.exit('\n  '.join([f'{len(old)} files are out of step with the notebooks; run `make docs`:', *old[:20]]))
        print(f'{pages} pages in step, every link lands')


if __name__ == '__main__': main('--check' in sys.argv)
