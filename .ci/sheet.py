"""What the page without a server (nbs/draw.ipynb) runs on: ONNX Runtime for browsers, and the recorded network.

    python .ci/sheet.py            check both, and export the network if its record has changed
    python .ci/sheet.py runtime    renew nbs/draw/onnxruntime-web.js, after VERSION and the digests below were changed

`make docs` does the first, and needs no network for it: the runtime is in the repository, once, packed with gzip and
written in letters, so that a page opened from a disk can load it as a script. The second asks `npm` for the package.
"""
import base64, gzip, hashlib, json, shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HERE = ROOT/'nbs'/'draw'
RECORD = ROOT/'nbs'/'results'/'cpu-draw-sketches-seed0'
RUNTIME, NETWORK = HERE/'onnxruntime-web.js', HERE/'network.onnx'
PACKAGE, VERSION = 'onnxruntime-web', '1.30.0'
PARTS = {  # of the package: what is in it that a page needs, and its sha256
    'code': ('dist/ort.wasm.bundle.min.mjs', '11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90'),
    'wasm': ('dist/ort-wasm-simd-threaded.wasm', '3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2')}
LICENCE = f"""/* {PACKAGE} {VERSION}, two files of it packed into one.

MIT License. Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

What it is built from has licences of its own: ThirdPartyNotices.txt of https://github.com/microsoft/onnxruntime */
"""


def sha(data: bytes) -> str: return hashlib.sha256(data).hexdigest()


def runtime_parts(path: Path) -> dict:
    "The two files in the runtime's script, unpacked: name -> bytes"
    text = path.read_text(encoding='utf-8').partition('window.tcRuntime = ')[2]
    held = json.loads(text.rstrip().rstrip(';'))
    return dict(code=held['code'].encode(), wasm=gzip.decompress(base64.b64decode(held['wasm'])))


def check_runtime(path: Path = RUNTIME):
    "Exit with one line if the runtime is not there, or not the one named above"
    cure = 'get it from git again (git checkout nbs/draw), or renew it: python .ci/sheet.py runtime'
    if not path.exists(): sys.exit(f'{path.relative_to(ROOT)} is missing: {cure}')
    try: parts = runtime_parts(path)
    except Exception as e: sys.exit(f'{path.relative_to(ROOT)} is damaged ({type(e).__name__}): {cure}')
    for name, (file, digest) in PARTS.items():
        if sha(parts[name]) != digest: sys.exit(f'{path.relative_to(ROOT)} has another {file} than {PACKAGE} {VERSION}: {cure}')


def renew_runtime():
    "Get the package through npm, as this machine has it configured, and pack what a page needs"
    npm = shutil.which('npm')
    if not npm: sys.exit('npm is not installed: it comes with Node.js. (The runtime that is in git stays as it is.)')
    with tempfile.TemporaryDirectory() as tmp:
        r = subprocess.run([npm, 'pack', f'{PACKAGE}@{VERSION}', '--silent'], cwd=tmp, capture_output=True, text=True)
        got = list(Path(tmp).glob('*.tgz'))
        if r.returncode or not got: sys.exit(f'npm could not get {PACKAGE} {VERSION}, is there a network? {r.stderr.strip()[-300:]}')
        with tarfile.open(got[0]) as tar:
            parts = {name: tar.extractfile(f'package/{file}').read() for name, (file, _) in PARTS.items()}
    for name, (file, digest) in PARTS.items():
        if sha(parts[name]) != digest: sys.exit(f'{file} of {PACKAGE} {VERSION} has the sha256 {sha(parts[name])}, not the one in .ci/sheet.py')
    held = dict(code=parts['code'].decode(), wasm=base64.b64encode(gzip.compress(parts['wasm'], 9, mtime=0)).decode())
    RUNTIME.write_text(f'{LICENCE}window.tcRuntime = {json.dumps(held)};\n', encoding='utf-8')
    check_runtime()


def network_digest() -> str:
    "The digest of the recorded weights, which travels in the ONNX file"
    weights = RECORD/'weights.npz'
    if not weights.exists(): sys.exit(f'{weights.relative_to(ROOT)} is missing: make it with `tinycourse records run {RECORD.name}`')
    return sha(weights.read_bytes())


def is_old() -> bool: return not NETWORK.exists() or network_digest().encode() not in NETWORK.read_bytes()


def export_network():
    "The recorded network as ONNX, with its maps; compared with PyTorch before it appears"
    from tinycourse.core import TinyCourseError
    from tinycourse.experiments import load_weights
    from tinycourse.export import WithMaps, export_onnx
    from tinycourse.models import CIFAR10Net
    run = json.loads((RECORD/'run.json').read_text(encoding='utf-8'))
    about = {k: run[k] for k in ('vocab', 'size', 'mean', 'std', 'accuracy', 'accuracy_sketches')}
    net = WithMaps(load_weights(CIFAR10Net(len(run['vocab'])), RECORD/'weights.npz'))
    try: return export_onnx(net, NETWORK, dict(about, record=RECORD.name, weights=network_digest()))
    except TinyCourseError as e: sys.exit(f'{NETWORK.relative_to(ROOT)} has to be made anew: {e}')


def settle(write: bool):
    "Check runtime and network; an old network is exported again, or reported"
    check_runtime()
    if not is_old(): return
    if not write: sys.exit(f'{NETWORK.relative_to(ROOT)} is not of the recorded weights; run `make docs`')
    print(f'==> {NETWORK.relative_to(ROOT)}: exported, off by {export_network():.1e}')


def put(site: Path):
    "What the page loads, beside it"
    folder = site/'draw'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(RUNTIME, folder)
    raw = NETWORK.read_bytes()
    (folder/NETWORK.name).write_bytes(raw)
    (folder/'network.js').write_text(f'window.tcNetwork = "{base64.b64encode(raw).decode()}";\n', encoding='utf-8')


if __name__ == '__main__':
    if sys.argv[1:] == ['runtime']: renew_runtime()
    elif sys.argv[1:]: sys.exit(__doc__)
    else: settle(write=True)
