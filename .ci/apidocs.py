"""How the site documents the library: every public name in the order of its source, methods too, parameters as a table.

`Documented` stands in for the processor of nbdev that shows each exported name, and `Table` for its way of showing a
signature, in which the parameters' meanings are comments that a narrow page cuts off.
"""
import ast, functools, importlib, inspect, re

import nbdev.showdoc
from fastai.callback.core import event
from execnb.nbio import NbCell, mk_cell
from fastcore.docments import ShowDocRenderer, docments, empty
from nbdev.doclinks import NbdevLookup
from fastcore.foundation import L
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, _def_names, _show_docs, _want_doc, add_show_docs


_moments = {*event.__dict__}  # fastai lets every callback take a function for each moment of training; none of ours is meant so


def _methods(cls: ast.ClassDef) -> list:
    "Public methods with a docstring, as `Class.method`"
    wanted = [f for f in cls.body if isinstance(f, ast.FunctionDef) and (f.name[0] != '_' or f.name == '__call__')]
    return [f'{cls.name}.{f.name}' for f in wanted if ast.get_docstring(f)]


class Documented(Processor):
    "In place of nbdev's `add_show_docs`: names in the order of their definitions, and the methods of classes"
    def begin(self):
        cells = self.nb.cells
        name = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(c.source for c in cells), re.M)
        Table.module = name and importlib.import_module(f'tinycourse.{name[1]}')
        exports = [c for c in cells if _want_doc(c)]
        shown = {ast.unparse(t.value.args[0]) for t in _show_docs(L(cells).map(NbCell.parsed_).concat())}
        for cell in reversed(exports):
            new = [self.shown(f'show_doc({m})') for m in self.names(cell, shown)]
            cells[cell.idx_+1:cell.idx_+1] = new
        self.nb.has_docs_ = bool(shown or exports)

    def names(self, cell, shown):
        "What a cell defines, with methods after their class"
        classes = {t.name: t for t in cell.parsed_() if isinstance(t, ast.ClassDef)}
        for name in _def_names(cell, shown):
            yield name
            if name in classes: yield from (f'{m}, title_level=4' for m in _methods(classes[name]) if m not in shown)

    def shown(self, source):
        cell = mk_cell(source)
        cell.has_sd = True
        return cell


def processors() -> list:
    "nbdev's, with ours in their place"
    return [Documented if p is add_show_docs else p for p in FilterDefaults().procs()]


def _type(anno) -> str:
    "A type as a reader would say it"
    if anno in (None, empty, inspect.Parameter.empty): return ''
    text = anno if isinstance(anno, str) else getattr(anno, '__name__', None) if inspect.isclass(anno) else str(anno)
    text = re.sub(r'\b(?:__main__|pathlib(?:\._local)?|typing|pandas\.\w+(?:\.\w+)*|torch(?:\.\w+)*?|numpy)\.(?=[A-Z])', '', text or str(anno))
    text = re.sub(r' ?\| ?None$', '', text.replace('NoneType', 'None'))
    return re.sub(r' ?\| ?', ' or ', text)


def _cell(text) -> str:
    "Text that may stand in a cell of a Markdown table"
    return ' '.join(str(text).split()).replace('|', '\\|')


def _default(value) -> str:
    if value is inspect.Parameter.empty: return ''
    if repr(value) == '<factory>' or ' at 0x' in repr(value): return ''  # made anew each time
    name = getattr(value, '__name__', None)
    return name if name and callable(value) else repr(value)


class Table(ShowDocRenderer):
    "A name of the library in Markdown: heading, call, docstring, and a row for each parameter"
    module = None  # the module whose notebook is being processed: what it exports has sources and proper names

    def __init__(self, sym, name=None, title_level=3):
        if isinstance(sym, property): sym = sym.fget
        path = getattr(sym, '__qualname__', '').split('.')
        try: sym = functools.reduce(getattr, path, self.module)
        except AttributeError: pass
        self.is_property = isinstance(sym, property)
        super().__init__(sym.fget if self.is_property else sym, name=name, title_level=title_level)

    def _repr_html_(self): return None

    def params(self) -> list:
        if self.sig is None: return []
        return [p for k, p in self.sig.parameters.items() if k not in ('self', 'cls') and k not in _moments]

    def call(self) -> str:
        "How one writes it; over several lines where it is long"
        stars = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
        words = [stars.get(p.kind, '') + p.name + ('' if p.default is p.empty else f'={_default(p.default) or "..."}') for p in self.params()]
        if self.is_property: return self.nm
        name = self.nm.removesuffix('.__call__')
        line = f'{name}({", ".join(words)})'
        return line if len(line) <= 80 else f'{name}(\n    ' + ',\n    '.join(words) + ')'

    def rows(self) -> list:
        try: docs = docments(self.sym, full=True)
        except Exception: docs = {}
        rows = []
        for p in self.params():
            doc = docs.get(p.name, {}) or {}
            kind = _type(doc.get('anno', p.annotation))
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and not doc.get('docment'): continue  # the call shows them
            rows.append((f'`{p.name}`' + f' <span class="type">{_cell(kind)}</span>' * bool(kind), doc.get('docment') or '', _default(p.default)))
        back = docs.get('return', {}) or {}
        kind = _type(back.get('anno')) if not inspect.isclass(self.sym) else ''
        if kind or back.get('docment'): rows.append((f'*returns* <span class="type">{_cell(kind)}</span>', back.get('docment') or '', ''))
        return rows

    def source(self):
        "The line on GitHub; a method has none of its own in nbdev's index"
        url = NbdevLookup().code(self.nm)
        return url if url and not url.endswith('None') else None

    def _repr_markdown_(self) -> str:
        source = self.source()
        link = f'[source]({source}){{target="_blank" style="float:right; font-size:smaller"}}\n\n' if source else ''
        table = ''.join(f'| {a} | {_cell(b)} | {"`" + _cell(c) + "`" if c else ""} |\n' for a, b, c in self.rows())
        table = table and '| parameter | meaning | default |\n|---|---|---|\n' + table
        doc = inspect.getdoc(self.sym) or ''
        return f'---\n\n{link}{"#"*self.title_level} {self.nm}\n\n```python\n{self.call()}\n```\n\n{doc}\n\n{table}'


nbdev.showdoc.BasicMarkdownRenderer = Table
