"""Move the figures of the built pages in a real browser, and compare what they show with what Python computes.

    pip install playwright
    python .ci/figures.py [--browser /usr/bin/chromium] [--shots FOLDER] [PAGE.html ...]

Without pages, all of docs/ that have a figure to move. Not part of `make test`, which needs no browser. `--shots` keeps
a picture of each figure: light and dark, wide and narrow.
"""
import argparse, base64, functools, http.server, io, json, re, shutil, sys, tempfile, threading
from pathlib import Path

import numpy as np, torch
from PIL import Image
from fastai.callback.schedule import combined_cos
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tinycourse.experiments import load_weights
from tinycourse.export import Predictor, WithMaps
from tinycourse.gradcam import GradCAM, energy_in_box, overlay
from tinycourse.models import CIFAR10Net
from tinycourse.records import load_record
from tinycourse.schedule import cycle_at


def shown(figure) -> dict:
    "The numbers that a figure shows, from its data attributes"
    return json.loads(figure.evaluate('o => JSON.stringify({...o.dataset})'))


def slide(figure, name: str, value):
    "Put a slider where a mouse would"
    figure.locator(f'[data-set="{name}"]').evaluate(
        "(o, v) => { o.value = v; o.dispatchEvent(new Event('input', {bubbles: true})); }", value)


def choose(figure, name: str, value: str): figure.locator(f'select[data-set="{name}"]').select_option(value)


def near(a, b, tolerance=1e-6): assert abs(float(a) - float(b)) <= tolerance*max(1e-12, abs(float(b))), f'{a} is not {b}'


def rate(shape, step, total, low, high, climb, gamma):
    if shape == 'one cycle': return float(combined_cos(climb/total, low, high, high/1e5)(step/total))
    return cycle_at(step, low, high, climb, mode=shape, gamma=gamma)


def move_schedule(page, figure, data) -> int:
    "Every shape at several settings, the keyboard, and the top dragged with the mouse"
    total, n = data['total'], 0
    agreed, of = shown(figure)['agrees'].split('/')
    assert agreed == of == str(len(data['checks'])), f'the script agrees with the library in {agreed} of {of} cases'
    for shape in data['shapes']:
        choose(figure, 'schedule', shape)
        for top, part, climb, gamma, at in ((-1, 25, total//4, .99, total//3), (-.5, 7, total//7, .95, total-1), (-2.3, 100, total//2, 1, 1)):
            for name, value in {'highest rate': top, 'lowest: highest /': part, 'batches up': climb, 'gamma': gamma, 'look at batch': at}.items():
                slide(figure, name, value)
            o = shown(figure)
            high = float(f'{10**top:.2g}')  # two digits, as the slider has it
            near(o['high'], high, 1e-9)
            settings = total, high/part, high, climb, gamma
            assert abs(float(o['rate']) - rate(shape, at, *settings)) < 1e-6*high, (shape, settings, o)
            assert abs(float(o['last']) - rate(shape, total-1, *settings)) < 1e-6*high, (shape, settings, o)
            words = figure.locator('.tc-say').inner_text()
            said = float(re.search(r'learning rate (\S+)\. The', words)[1])
            digits = 6e-4 if said >= 1e-3 else 6e-3  # four digits, and three of small numbers
            assert abs(said - rate(shape, at, *settings)) < digits*said + 1e-6*high, words
            n += 1
    choose(figure, 'schedule', 'triangular2')
    slide(figure, 'highest rate', -1)
    climb = figure.locator('[data-set="batches up"]')
    was = int(climb.input_value())
    climb.focus()
    page.keyboard.press('ArrowRight')
    assert int(climb.input_value()) == was + 1, 'the arrow key moves no slider'
    top = figure.locator('.tc-top')
    top.scroll_into_view_if_needed()
    box = top.bounding_box()
    x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 40, steps=4)
    page.mouse.up()
    assert int(climb.input_value()) < was - 5 and float(shown(figure)['high']) < .095, 'the top cannot be dragged'
    return n + 2


def move_field(page, figure, data) -> int:
    "Every layer of every network, at three places; then the keyboard and a click into the image"
    n, size = 0, data['size']
    for name, rows in data['tables'].items():
        choose(figure, data['choice'], name)
        for row in rows:
            figure.locator(f'input[type=radio][value="{row["layer"]}"]').check()
            for x, y in ((size//2, size//2), (0, size-1), (size//3, 5)):
                slide(figure, 'column', x)
                slide(figure, 'row', y)
                o = shown(figure)
                corner = [int(p) for p in o['from'].split(',')]
                ends = [int(p) for p in o['to'].split(',')]
                positions = [(p - row['first'])/row['stride'] for p in corner]
                assert all(p == int(p) and 0 <= p < row['output'][1] for p in positions), (row, corner)
                assert [b - a + 1 for a, b in zip(corner, ends)] == [row['field']]*2, (row, corner, ends)
                middles = [row['first'] + (row['field']-1)/2 + np.arange(row['output'][1])*row['stride'] for _ in 'xy']
                for pixel, a, m in zip((x, y), corner, middles):
                    mine = a + (row['field']-1)/2
                    assert abs(mine - pixel) <= np.abs(m - pixel).min() + 1e-9, f'{row["layer"]}: another position is nearer'
                seen = [np.clip(b, 0, size-1) - np.clip(a, 0, size-1) + 1 for a, b in zip(corner, ends)]
                near(o['share'], 100*seen[0]*seen[1]/size**2, 1e-9)
                n += 1
    radios = figure.locator('input[type=radio]')
    radios.nth(2).check()
    radios.nth(2).focus()
    page.keyboard.press('ArrowDown')
    assert shown(figure)['layer'] == radios.nth(3).input_value(), 'the arrow key chooses no layer'
    svg = figure.locator('svg')
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    page.mouse.click(box['x'] + box['width']/2, box['y'] + box['height']*.3)
    assert abs(int(figure.locator('[data-set="row"]').input_value()) - (.3*1.75-.375)*size) < 2, 'a click moves no square'
    return n + 2


def move_cam(page, figure, data) -> int:
    "Every image, layer and method; the pixels are those of `overlay`"
    n = 0
    names = [f'{i+1}: {o["truth"]}' for i, o in enumerate(data['images'])]
    for i, own in enumerate(data['images']):
        choose(figure, 'image', names[i])
        picture = Image.open(io.BytesIO(base64.b64decode(own['picture'].split(',')[1]))).convert('RGB')
        image = torch.tensor(np.array(picture)).permute(2, 0, 1)/255
        for key, rows in data['found'].items():
            layer, method = key.split()
            choose(figure, 'layer', layer)
            choose(figure, 'method', method)
            strength = (.3, .5, .8)[n % 3]
            slide(figure, 'strength', strength)
            page.wait_for_function('([id, w]) => document.getElementById(id).dataset.shown == w', arg=[figure.get_attribute('id'), f'{i} {key}'])
            page.wait_for_timeout(30)
            side = rows[i]['side']
            heat = torch.tensor(np.frombuffer(base64.b64decode(rows[i]['heat']), np.uint8).reshape(side, side)/255).float()
            pixels = figure.locator('canvas').evaluate("o => o.toDataURL('image/png')")
            got = np.array(Image.open(io.BytesIO(base64.b64decode(pixels.split(',')[1]))).convert('RGB')).astype(float)
            want = 255*overlay(image, heat, alpha=strength).numpy()
            off = np.abs(got - want)
            assert off.mean() < 1.5 and np.percentile(off, 99) < 8, f'{key}: pixels differ by {off.mean():.2f}, at most {off.max():.0f}'
            o, words = shown(figure), figure.locator('.tc-say').inner_text()
            energy = 100*energy_in_box(heat[None], torch.tensor([own['box']]))[0].item()
            assert abs(float(o['energy']) - energy) < 1.5, (key, o, energy)
            said = re.search(r'([\d.]+) % of the map is in it', words)
            assert 'is empty' in words if rows[i]['empty'] else abs(float(said[1]) - rows[i]['energy']) < .051, words
            place = ('in the box' in words, 'beside the box' in words)
            assert rows[i]['empty'] or place == (rows[i]['hit'], not rows[i]['hit']), words
            n += 1
    method = figure.locator('select[data-set="method"]')
    was = method.input_value()
    method.focus()
    page.keyboard.press('ArrowUp')
    assert method.input_value() != was, 'the arrow key chooses no method'
    return n + 1


def settle(page, figure):
    "Wait until the network is there and has answered what is on the sheet"
    found = [figure.get_attribute('id')]
    page.wait_for_function('([id]) => { const o = document.getElementById(id).dataset; return o.failed || o.ready && !o.busy; }',
                           arg=found, timeout=180_000)
    assert 'failed' not in shown(figure), shown(figure)['failed']


def draw_strokes(page, figure, drawing):
    "Put a drawing on an empty sheet, with the mouse"
    figure.locator('[data-set="clear"]').click()
    choose(figure, 'tool', drawing['tool'])
    slide(figure, 'pen', drawing['wide'])
    slide(figure, 'ink', drawing['ink'])
    slide(figure, 'paper', drawing['paper'])
    sheet = figure.locator('.tc-sheet')
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    for stroke in drawing['strokes']:
        points = [(box['x'] + x*box['width'], box['y'] + y*box['height']) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for o in points[1:]: page.mouse.move(*o)
        page.mouse.up()
    settle(page, figure)


@functools.cache
def recorded():
    "The network of the page, in PyTorch, and what prepares its images"
    record = load_record('cpu-draw-sketches-seed0')
    net = load_weights(CIFAR10Net(), record.folder/'weights.npz')
    return net, WithMaps(net), Predictor(None, record.run).prepare


def compare_answer(figure, strength=None) -> tuple:
    "What the page says of its pixels beside what PyTorch says: the largest differences of logits and of heatmaps"
    net, both, prepare = recorded()
    o = shown(figure)
    pixels = np.frombuffer(base64.b64decode(o['pixels']), np.uint8).reshape(64, 64, 3)
    x = torch.from_numpy(prepare(Image.fromarray(pixels)))[None]
    with torch.no_grad(): logits = both(x)[0][0]
    off = np.abs(np.array(o['logits'].split(','), float) - logits.numpy()).max()
    vocab = load_record('cpu-draw-sketches-seed0').run['vocab']
    assert o['answer'] == vocab[int(logits.argmax())], (o['answer'], logits)
    words, p = figure.locator('.tc-say').inner_text(), 100*float(logits.softmax(0).max())
    said = re.search(r'(\w+), ([\d.]+) %', words)
    assert said[1] == o['answer'] and abs(float(said[2]) - p) < .051, (words, p)
    first = figure.locator('.tc-answer').first.inner_text().split()
    assert first[0] == o['answer'] and abs(float(first[1]) - p) < .051, (first, p)
    with GradCAM(net, 'separable') as cam: heat = cam(x, vocab.index(o['of']))[0]
    mine = np.array(o['map'].split(','), float).reshape(heat.shape).clip(0)
    mine = mine/max(mine.max(), 1e-20)
    if strength is not None:
        url = figure.locator('.tc-seen').evaluate("o => o.toDataURL('image/png')")
        got = np.array(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGB')).astype(float)
        want = 255*overlay(torch.tensor(pixels.copy()).permute(2, 0, 1)/255, heat, alpha=strength).numpy()
        assert np.percentile(np.abs(got - want), 99) < 4, f'the picture is off by {np.abs(got - want).max():.0f}'
    return off, np.abs(mine - heat.numpy()).max()


def move_draw(page, figure, data) -> int:
    "Twenty drawings with the mouse, the examples, one with the keyboard; every answer and map is PyTorch's"
    settle(page, figure)
    assert float(shown(figure)['off']) < 1e-3, 'the script does not say what PyTorch said of the examples'
    assert 'The sheet is empty' in figure.locator('.tc-say').inner_text()
    drawings = json.loads((ROOT/'nbs'/'draw'/'strokes.json').read_text())
    says, offs = [], []
    for i, o in enumerate(drawings):
        draw_strokes(page, figure, o)
        strength = (.3, .5, .8)[i % 3]
        slide(figure, 'strength', strength)
        settle(page, figure)
        offs.append(compare_answer(figure, strength))
        says.append(shown(figure)['answer'])
    right = sum(o['name'] == answer for o, answer in zip(drawings, says))
    wrong = [f'{o["name"]}: {answer}' for o, answer in zip(drawings, says) if o['name'] != answer]
    assert right >= 18, wrong  # by chance two would be
    choose(figure, 'map of', data['vocab'][3])
    settle(page, figure)
    offs.append(compare_answer(figure))
    choose(figure, 'map of', 'the likeliest')
    for i, o in enumerate(data['examples']):
        figure.locator(f'[data-set="example {i+1}"]').click()
        page.wait_for_timeout(200)
        settle(page, figure)
        stored = Image.open(io.BytesIO(base64.b64decode(o['picture'].split(',')[1]))).convert('RGB')
        assert base64.b64decode(shown(figure)['pixels']) == stored.tobytes(), 'an example is shown in other pixels'
        offs.append(compare_answer(figure))
    draw_strokes(page, figure, drawings[0])
    figure.locator('[data-set="undo"]').click()
    settle(page, figure)
    assert shown(figure)['empty'] == 'true', 'undo leaves something on the sheet'
    slide(figure, 'paper', '#ffffff')
    choose(figure, 'tool', 'filled shape')
    figure.locator('.tc-sheet').focus()
    keys = ['Space', *['ArrowRight']*4, *['ArrowDown']*4, *['ArrowLeft']*4, 'Shift+ArrowUp', 'Space']
    for key in keys: page.keyboard.press(key)
    settle(page, figure)
    pixels = np.frombuffer(base64.b64decode(shown(figure)['pixels']), np.uint8).reshape(64, 64, 3)
    inked = (pixels.astype(int).sum(2) < 700)
    assert 100 < inked.sum() < 300 and inked[44, 36], f'the keyboard drew {inked.sum()} pixels'
    offs.append(compare_answer(figure))
    logits, heats = np.max(offs, axis=0)
    assert logits < 1e-3 and heats < 1e-3, (logits, heats)
    print(f'    {right} of {len(says)} drawings right ({"; ".join(wrong)}); at most {logits:.1e} from PyTorch\'s logits, '
          f'{heats:.1e} from GradCAM\'s maps; off the examples by {float(shown(figure)["off"]):.1e}, ready in '
          f'{float(shown(figure)["ready"])/1000:.1f} s, an answer in {float(shown(figure)["ms"]):.0f} ms')
    return len(offs)


MOVES = dict(schedule=move_schedule, field=move_field, cam=move_cam, draw=move_draw)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


def try_cut_off(browser, docs: Path):
    "The page to draw on, from a server of this machine, all else unreachable; then without that one, too; by touch"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=docs))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = f'http://127.0.0.1:{server.server_port}/'
    context = browser.new_context(has_touch=True, viewport=dict(width=420, height=900))
    page, came, refused = context.new_page(), [], []
    context.route('**', lambda route: route.continue_() if route.request.url.startswith(own) else (refused.append(route.request.url), route.abort()))
    page.on('response', lambda o: came.append(o))
    page.goto(own + 'draw.html', wait_until='load')
    figure = page.locator('.tc-move')
    settle(page, figure)
    assert not refused, f'the page asked for {refused}'
    fetched = [(o.url.removeprefix(own), len(o.body())) for o in came if o.ok and o.url.startswith(own)]
    server.shutdown()
    server.server_close()
    context.set_offline(True)
    drawings = json.loads((ROOT/'nbs'/'draw'/'strokes.json').read_text())
    some, says = {o['name']: o for o in drawings[::2]}, {}
    for name in ('star', 'ring', 'moon', 'frame', 'plus'):
        draw_strokes(page, figure, some[name])
        assert max(compare_answer(figure)) < 1e-3
        row = figure.locator('.tc-answer').first.inner_text().split()
        says[name] = ' '.join(row)
        assert row[0] == name, f'a {name} is taken for a {row[0]}'
    figure.locator('[data-set="clear"]').click()
    sheet = figure.locator('.tc-sheet')
    sheet.scroll_into_view_if_needed()
    box, finger = sheet.bounding_box(), context.new_cdp_session(page)
    top = page.evaluate('scrollY')
    at = [dict(x=box['x'] + x*box['width'], y=box['y'] + y*box['height']) for x, y in some['ball']['strokes'][0]]
    for kind, o in [('touchStart', at[:1]), *[('touchMove', [p]) for p in at[1:]], ('touchEnd', [])]:
        finger.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=o))
    page.wait_for_timeout(300)
    settle(page, figure)
    assert page.evaluate('scrollY') == top, 'a finger that draws moves the page'
    assert max(compare_answer(figure)) < 1e-3
    by_touch = shown(figure)['answer']
    assert by_touch == 'ball', f'by touch a ball is a {by_touch}'
    total = sum(n for _, n in fetched)/1e6
    own_files = [f'{name} {n/1e6:.2f}' for name, n in fetched if name.startswith('draw')]
    print(f'  cut off: {says}; by touch: {by_touch}; {total:.2f} MB in {len(fetched)} files ({", ".join(own_files)})')
    context.close()


def try_failures(browser, docs: Path):
    "Without WebAssembly, and without its files, the page to draw on says what is wrong"
    page = browser.new_page()
    page.add_init_script('delete window.WebAssembly')
    page.goto((docs/'draw.html').as_uri())
    page.wait_for_function("document.querySelector('.tc-move').dataset.failed")
    assert 'runs no WebAssembly' in page.locator('.tc-say').inner_text()
    page.close()
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copy(docs/'draw.html', tmp)
        page = browser.new_page()
        page.goto((Path(tmp)/'draw.html').as_uri())
        page.wait_for_function("document.querySelector('.tc-move').dataset.failed")
        assert 'is not there; it belongs beside this page' in page.locator('.tc-say').inner_text()
        page.close()
    print('  without WebAssembly, and without its files, it says so')


def try_page(browser, path: Path, shots):
    "All figures of one page, in two schemes and two widths, and without a script"
    text = path.read_text(encoding='utf-8')
    found = re.findall(r'id="tc-(\w+)-(\w+)"', text)
    data = [json.loads(o) for o in re.findall(r'^const data = (.*);$', text, re.M)]
    for dark in (False, True):
        for width in (1400, 420):
            page = browser.new_page(viewport=dict(width=width, height=900), color_scheme='dark' if dark else 'light')
            errors, asked = [], []
            page.on('pageerror', lambda e: errors.append(str(e)))
            page.on('request', lambda r: asked.append(r.url) if not re.match('file:|data:|blob:', r.url) else None)
            page.goto(path.as_uri())
            for (kind, name), own in zip(found, data):
                figure = page.locator(f'#tc-{kind}-{name}')
                figure.scroll_into_view_if_needed()
                page.wait_for_timeout(400)
                if kind == 'draw': settle(page, figure)
                assert figure.locator('.tc-still').count() == 0, f'{kind}: the picture still stands there'
                box = figure.bounding_box()
                assert box['x'] >= 0 and box['x'] + box['width'] <= width, f'{kind} is wider than a page of {width}'
                if shots: figure.screenshot(path=shots/f'{path.stem}-{kind}-{width}-{"dark" if dark else "light"}.png')
                if not dark:
                    n = MOVES[kind](page, figure, own)
                    print(f'  {path.stem:<20} {kind:<10} {width:>5} px: {n} moves, every number as computed', flush=True)
            assert not errors, errors
            assert not asked, f'something was fetched: {asked}'
            page.close()
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    for kind, name in found:
        still = page.locator(f'#tc-{kind}-{name} .tc-still img')
        still.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        box = still.bounding_box()
        assert box['width'] > 150 and box['height'] > 100, f'{kind}: without a script there is no picture'
        if shots: still.screenshot(path=shots/f'{path.stem}-{kind}-still.png')
    page.close()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('pages', nargs='*', type=Path)
    p.add_argument('--browser', default='/usr/bin/chromium', help='a Chromium or Chrome')
    p.add_argument('--shots', type=Path, help='where to keep pictures')
    args = p.parse_args()
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    pages = args.pages or [o for o in sorted((ROOT/'docs').rglob('*.html')) if 'class="tc-move"' in o.read_text(encoding='utf-8')]
    if not pages: sys.exit('no page has a figure to move; run `make docs`')
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=args.browser, args=['--no-sandbox'])
        for o in pages:
            try_page(browser, o.resolve(), args.shots)
            if o.name != 'draw.html': continue
            try_cut_off(browser, o.resolve().parent)
            try_failures(browser, o.resolve().parent)
        browser.close()
    print(f'{len(pages)} pages: all figures move and show what Python computes')


if __name__ == '__main__': main()
