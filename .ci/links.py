"""A link check without the network: every page, picture and #section that the site or README.md points at is there."""
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbdev.config import get_config


VERBATIM = {'pre', 'code', 'script', 'style'}


class Page(HTMLParser):
    "The ids and the links of one page, and links that are still Markdown"
    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.typed, self.verbatim = set(), set(), [], 0
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        self.verbatim += tag in VERBATIM
        for k, v in attrs:
            if k in ('id', 'name') and v: self.ids.add(v)
            if k in ('href', 'src') and v: self.links.add(v)

    def handle_endtag(self, tag): self.verbatim -= tag in VERBATIM

    def handle_data(self, data):
        if not self.verbatim: self.typed += re.findall(r'.{,40}\]\(.{,40}', data)


def external(url: str, root: Path) -> str:
    "What is wrong with a link to elsewhere, as far as can be told from here"
    cfg, parts = get_config(), urlsplit(url)
    if parts.scheme in ('data', 'javascript'): return ''
    if parts.scheme == 'mailto': return '' if '@' in parts.path else 'not an address'
    if parts.scheme not in ('http', 'https') or '.' not in parts.netloc or re.search(r'\s', url): return 'not a URL'
    here = f'{cfg.git_url}/blob/{cfg.branch}/'
    if url.startswith(here) and not (root/unquote(urlsplit(url[len(here):]).path)).exists(): return 'no such file in the repository'
    return ''


def check(site: Path, root: Path, readme: Path) -> list:
    "One line for each link that leads nowhere"
    pages = {p.resolve(): Page(p) for p in site.rglob('*.html')}
    bad = []
    for path, page in sorted(pages.items()):
        bad += [f'  {path.relative_to(site.resolve())}: {words} (Markdown, as it was typed)' for words in page.typed]
        for url in sorted(page.links):
            why, parts = '', urlsplit(url)
            if parts.scheme or parts.netloc: why = external(url, root)
            else:
                base = get_config().doc_baseurl.rstrip('/') + '/'  # 404.html is shown at any depth, so its links begin there
                at = site/parts.path[len(base):] if parts.path.startswith(base) else path.parent/unquote(parts.path)
                to = at.resolve() if parts.path else path
                if to.is_dir(): to = to/'index.html'
                if not to.exists(): why = 'no such file'
                elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].ids: why = 'no such section'
            if why: bad.append(f'  {path.relative_to(site.resolve())}: {url} ({why})')
    for url in re.findall(r'\]\(([^)\s]+)\)', readme.read_text(encoding='utf-8')):
        parts = urlsplit(url)
        docs = f'{get_config().doc_path.name}/'
        at = site/parts.path[len(docs):] if parts.path.startswith(docs) else root/unquote(parts.path)
        why = external(url, root) if parts.scheme else '' if at.exists() else 'no such file'
        if why: bad.append(f'  README.md: {url} ({why})')
    return bad
