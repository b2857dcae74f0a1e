"""What a finished page needs and smalldocs does not give: a skip link, names for figures, addresses for those who share it.

Each function takes the text of a page and gives it back, so that they can be read, and left out, one by one.
"""
import html, re


def skip_link(text: str) -> str:
    "The first stop of the Tab key jumps over the navigation"
    return re.sub(r'(<body[^>]*>)', r'\1<a class="skip-link" href="#quarto-document-content">Skip to the content</a>', text, count=1)


def quiet_icons(text: str) -> str:
    "Icons stand beside words; screen readers need not hear of them"
    return re.sub(r'<i class="(bi[^"]*)" role="img"', r'<i class="\1" aria-hidden="true"', text)


def landmarks(text: str) -> str:
    "Each part of the frame under a name of its own; the headings that fold the list of pages are buttons that Tab reaches"
    for cls, label in (('navbar ', 'Site'), ('quarto-secondary-nav', 'Where you are'), ('page-navigation', 'Previous and next')):
        text = text.replace(f'<nav class="{cls}', f'<nav aria-label="{label}" class="{cls}', 1)
    text = text.replace('<nav id="quarto-sidebar"', '<nav aria-label="Pages" id="quarto-sidebar"', 1)
    text = text.replace('<nav id="TOC"', '<nav aria-label="On this page" id="TOC"', 1)
    text = text.replace('<div class="toc-actions">', '<div class="toc-actions" role="navigation" aria-label="This page on GitHub">')
    text = re.sub(r'(<a class="sidebar-item-text[^>]*data-bs-target="(#[^"]*)") role="navigation"', r'\1 href="\2" role="button"', text)
    return re.sub(r'(<a class="sidebar-item-toggle[^>]*) role="navigation"([^>]*?) aria-label="[^"]*"', r'\1\2 aria-hidden="true"', text)


def wide_outputs(text: str) -> str:
    "What scrolls sideways can be reached and scrolled with the keyboard, and only that: a stop of Tab that does nothing is a nuisance"
    script = """<script>
addEventListener("load", () => new ResizeObserver(() => {
  for (const e of document.querySelectorAll("main .cell-output, main .cell-output > div, main pre, main .sd-table, main math[display=block]")) {
    const wide = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible";
    if (wide) { e.tabIndex = 0; e.setAttribute("role", "group"); e.setAttribute("aria-label", "Wider than the page: scrolls"); }
    else if (e.getAttribute("aria-label") === "Wider than the page: scrolls") ["tabindex", "role", "aria-label"].forEach((a) => e.removeAttribute(a));
  }
}).observe(document.querySelector("main")));
</script>"""
    return text.replace('</body>', script + '</body>', 1)


def table_corners(text: str) -> str:
    "pandas puts an empty header into the corner of a table, where there is nothing to head"
    return re.sub(r'<th([^>]*)>\s*(?:&nbsp;)?\s*</th>', r'<td\1></td>', text)


def readable_cells(text: str) -> str:
    "Words on a coloured cell of a table, black or white, whichever is easier to read; pandas keeps white for too long"
    def settled(m):
        r, g, b = ((v/12.92 if v <= .04045 else ((v+.055)/1.055)**2.4) for v in (int(m[2][i:i+2], 16)/255 for i in (0, 2, 4)))
        return m[1] + ('#000000' if .2126*r + .7152*g + .0722*b > .179 else '#ffffff')
    return re.sub(r'(background-color: #([0-9a-fA-F]{6});\s*color: )#[0-9a-fA-F]{6}', settled, text)


def readable_bars(text: str) -> str:
    "A bar of pandas behind a number lets the page shine through: the words on it are the page's, dark or light"
    return re.sub(r'(linear-gradient\(90deg, ?#[0-9a-fA-F]{6})(?= )', r'\g<1>66', text)


def number_columns(text: str) -> str:
    "Columns of numbers, and their heads, are aligned at the right, so that digits stand under each other"
    cell = re.compile(r'<(t[hd])([^>]*)>(.*?)</t[hd]>', re.S)
    number = re.compile(r'[-+±]?[\d.,]+(e[-+]?\d+)?( ?%)?( ?± ?[\d.]+( ?%)?)?$', re.I)
    words = lambda found: html.unescape(re.sub(r'<[^>]+>', '', found)).strip()

    def aligned(table):
        rows = [[words(o[2]) for o in cell.findall(row)] for row in re.findall(r'<tr.*?</tr>', table[0].partition('<tbody>')[2], re.S)]
        if not rows or re.search(r'(row|col)span', table[0]) or len({len(o) for o in rows}) > 1: return table[0]
        numbers = [any(column) and all(number.match(o) for o in column if o not in ('', 'NaN')) for column in zip(*rows)]

        def row(found):
            place = iter(numbers)
            def one(o):
                if not next(place, False): return o[0]
                about = o[2].replace('class="', 'class="num ') if 'class="' in o[2] else f'{o[2]} class="num"'
                return f'<{o[1]}{about}>{o[3]}</{o[1]}>'
            return cell.sub(one, found[0])
        return re.sub(r'<tr.*?</tr>', row, table[0], flags=re.S)

    return re.sub(r'<table.*?</table>', aligned, text, flags=re.S)


def figure_names(text: str, title: str) -> str:
    "Each figure is called after its page and section, and numbered, unless the notebook names it"
    section, n = '', {}

    def name(m):
        nonlocal section
        if m[1]:
            section = html.unescape(re.sub(r'<[^>]+>', '', m[2])).strip()
            return m[0]
        if 'alt=' in m[0]: return m[0]
        n[section] = n.get(section, 0) + 1
        alt = f'{title}{": " if section else ""}{section}, figure {n[section]}'
        return f'<img alt="{html.escape(alt)}" ' + m[0][5:]

    return re.sub(r'<h([23])[^>]*>(.*?)</h\1>|<img [^>]*>', name, text, flags=re.S)


def addresses(text: str, url: str, title: str) -> str:
    "What a search engine and a chat that shows previews want to know"
    description = re.search(r'<meta name="description" content="([^"]*)"', text)
    tags = [f'<link rel="canonical" href="{url}">', f'<meta property="og:title" content="{html.escape(title)}">',
            f'<meta property="og:url" content="{url}">', '<meta property="og:type" content="article">',
            '<meta property="og:site_name" content="tinycourse">']
    if description: tags.append(f'<meta property="og:description" content="{description[1]}">')
    return text.replace('</head>', ''.join(tags) + '</head>', 1)


def page_title(text: str) -> str:
    found = re.search(r'<title>(.*?)(?: – [^<]*)?</title>', text)
    return html.unescape(found[1]) if found else 'tinycourse'


def polish(text: str, url: str) -> str:
    "A page, complete"
    title = page_title(text)
    text = wide_outputs(landmarks(skip_link(quiet_icons(table_corners(back_to_top(text))))))
    text = number_columns(readable_bars(readable_cells(text)))
    return addresses(figure_names(text, title), url, title)


def back_to_top(text: str) -> str:
    "A link that the keyboard reaches"
    return text.replace('role="button" id="quarto-back-to-top"', 'href="#" id="quarto-back-to-top"')


def search_marks(script: str) -> str:
    "smalldocs.js marks one word of a query after the other, the letters of its own marks too; here all at once, in plain text"
    old = re.search(r'    let s = escapeHtml\(text\.slice\(start, start \+ 200\)\);\n.*?    return \(start', script, re.S)
    new = """    const words = q.split(/\\s+/).filter((w) => w.length > 1).map((w) => w.replace(/[.*+?^${}()|[\\]\\\\]/g, "\\\\$&"));
    const parts = text.slice(start, start + 200).split(new RegExp("(" + words.join("|") + ")", "ig"));
    const s = parts.map((o, i) => i % 2 ? `<mark>${escapeHtml(o)}</mark>` : escapeHtml(o || "")).join("");
    return (start"""
    return script.replace(old[0], new)


def sitemap(urls: list) -> str:
    "Every page, without times, so that two builds are equal"
    rows = ''.join(f'<url><loc>{u}</loc></url>\n' for u in sorted(urls))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'


def not_found(index: str, base: str) -> str:
    "A page for addresses that do not exist, in the site's dress; its links are whole, for it may be shown anywhere"
    body = '<h1>There is no such page</h1><p>It may have moved. The search field above knows every page, and the lessons are on the left.</p>'
    text = re.sub(r'(<main[^>]*>).*?(</main>)', rf'\1{body}\2', index, flags=re.S)
    text = re.sub(r'<nav [^>]*id="TOC".*?</nav>', '', text, flags=re.S)
    text = re.sub(r'<title>.*?</title>', '<title>Not found – tinycourse</title>', text)
    text = re.sub(r'<(link rel="canonical"|meta property="og:)[^>]*>', '', text)
    text = text.replace('<meta name="smalldocs:offset" content="./">', f'<meta name="smalldocs:offset" content="{base}">')
    return re.sub(r'\b(href|src)="(?![a-z]+:|#|/|")([^"]*)"', rf'\1="{base}\2"', text)
