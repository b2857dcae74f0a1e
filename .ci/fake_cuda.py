"""The course on a GPU that does not exist: `python .ci/fake_cuda.py`

PyTorch's FakeTensorMode computes shapes, types, strides and devices of tensors, but no values. Under it, what the
library does on a GPU runs on any machine: a tensor left on the CPU raises as it would there, and each wait of the host
for the GPU and each operation sent to it is counted. Values read back are made up, so nothing is learned; the backward
pass gives every weight an empty gradient. Tensors on the CPU are real. Speed and numbers need a real GPU.
"""
import collections, contextlib, os, statistics, sys, tempfile, time, traceback, warnings
from functools import partial
from pathlib import Path
from unittest import mock

os.environ.update(NO_ALBUMENTATIONS_UPDATE='1', MPLBACKEND='agg')
warnings.filterwarnings('ignore')
import torch
from fastai.vision.all import CancelFitException, Callback, ItemTransform, ProgressCallback, TensorBase, noop
from fasttransform import Transform, transform as ft
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from tinycourse.all import (Checkpoint, Cutout, GradCAM, cam_methods, get_data, load_checkpoint, pack, packed_dls,
                            pad_crop_flip, run_learner, tiny_learner)

# What a training batch may take at most: waits of the host for the GPU, and operations sent to it (forward and step);
# then waits in an epoch of four batches beside them, and the settings of the run. Lower them when the library does.
CASES = {              # waits, operations, waits an epoch
    'basic':             (1, 1150, 15, {}),                      # the loss that fastai shows
    'basic, fp32':       (1, 1000, 15, {'amp': 'fp32'}),
    'basic, fp16':       (3, 1130, 15, {'amp': 'fp16'}),         # the scaler reads two numbers
    'basic, no room':    (2, 1150, 15, {'free': 1000}),          # the pixels come from the CPU
    'basic, from files': (3, 1150, 16, {'pack': False}),         # images and labels come from the CPU
    'course':            (1, 1240, 15, {'recipe': 'course'}),
    'assignment':        (3, 1150, 16, {'recipe': 'assignment'}),
}
KNOWN = {}  # what fails today, in words of its error


# ---- tensors that do not exist, and what is counted

def is_fake(o) -> bool: return isinstance(o, FakeTensor)


def where() -> str:
    "The innermost line of the course or of fastai that is being run"
    lines = [f for f in traceback.extract_stack() if '/tinycourse/' in f.filename or '/fastai/' in f.filename]
    lines = [f for f in lines if f.name != '__torch_function__']
    if not lines: return '?'
    return f'{"/".join(lines[-1].filename.split("/")[-2:])}:{lines[-1].lineno} {lines[-1].line[:80]}'


class Watch(TorchDispatchMode):
    "See every operation: run those on the CPU for real, count waits for the GPU and operations sent to it"
    def __init__(self):
        super().__init__()
        self.process, self.waits, self.operations = os.getpid(), collections.Counter(), 0
        self.made = collections.Counter()  # tensors of bytes that operations on the GPU made, by size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [o for o in tree_leaves((args, kwargs)) if isinstance(o, torch.Tensor)]
        device = torch.device(kwargs.get('device') or 'cpu')
        if device.type == 'cpu' and not any(map(is_fake, tensors)): return self.really(func, args, kwargs)
        if os.getpid() != self.process: raise RuntimeError('Cannot re-initialize CUDA in forked subprocess')
        if func is torch.ops.aten._local_scalar_dense.default: return self.read(tensors[0])
        args, kwargs = tree_map(self.plain, (args, kwargs))
        if func in SEARCHES and (found := self.searched(func, *args)) is not None: return found
        out = self.fused(tensors) if func.name().startswith('aten::_fused_') else func(*args, **kwargs)
        self.count(func, out)
        return self.copied(func, args, kwargs, out) if func in COPIES else out

    def count(self, func, out):
        if func.is_view: return
        self.operations += 1
        if isinstance(out, torch.Tensor) and out.dtype == torch.uint8: self.made[out.numel()] += 1

    def really(self, func, args, kwargs):
        with _disable_current_modes(): return func(*args, **kwargs)

    def plain(self, o):
        "FakeTensorMode declines fastai's types"
        return AS_SUBCLASS(o, torch.Tensor) if isinstance(o, TensorBase) else o

    def fused(self, tensors):
        "FakeTensorMode has no fused optimizers; they change weights in place, all on one device"
        devices = {o.device.type for o in tensors}
        if devices != {'cuda'}: raise RuntimeError(f'a fused optimizer got tensors on {", ".join(sorted(devices))}')

    def read(self, tensor):
        "`.item()`, `if tensor`, a tensor as an index: the host waits. The answer is made up"
        self.waits[f'reads a value: {where()}'] += 1
        if tensor.dtype == torch.bool: return False
        return 0. if tensor.dtype.is_floating_point else 1

    def searched(self, func, x, indices=()):
        "What a mask selects: the host waits to know how many. The answer is none"
        masks = [o for o in indices if o is not None and o.dtype == torch.bool]
        if func is torch.ops.aten.index.Tensor and not masks: return None
        self.waits[f'counts what a mask selects: {where()}'] += 1
        if func is torch.ops.aten.nonzero.default: return x.new_empty((0, x.ndim), dtype=torch.long)
        return x.new_empty((0, *x.shape[masks[0].ndim:]))

    def copied(self, func, args, kwargs, out):
        "The host waits for each copy between CPU and GPU that is not called non_blocking. What comes back is real"
        into = func is torch.ops.aten.copy_.default
        source, non_blocking = args[into], kwargs.get('non_blocking') or (into and args[2:] == (True,))
        if source.device.type == out.device.type: return out
        back = out.device.type == 'cpu'
        if back or not non_blocking:
            self.waits[f'copies {source.nbytes:,} bytes {"back" if back else "over"}: {where()}'] += 1
        if not back: return out
        with _disable_current_modes(): return torch.ones(out.shape, dtype=out.dtype)


COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
SEARCHES = {torch.ops.aten.nonzero.default, torch.ops.aten.index.Tensor}


# ---- where fake tensors need help

AS_SUBCLASS, APPLY, DO_CALL = torch.Tensor.as_subclass, torch.nn.Module._apply, Transform._do_call
SAVE, LOAD = torch.save, torch.load


def as_subclass(self, cls):
    "A fake tensor has one Python type, so fastai's type goes into an attribute"
    if not is_fake(self): return self if issubclass(cls, FakeTensor) else AS_SUBCLASS(self, cls)
    self._kind = FakeTensor if cls is torch.Tensor else cls
    return self


def kind(o): return getattr(o, '_kind', type(o)) if is_fake(o) else type(o)


def do_call(self, name, *args, **kwargs):
    "fasttransform chooses a method by type: let it look at the attribute"
    x = args[0]
    if ft._is_tuple(x): return tuple(self._do_call(name, o, *args[1:], **kwargs) for o in x)
    if not is_fake(x): return DO_CALL(self, name, *args, **kwargs)
    f = getattr(self, name)
    f, args = (f._f, (self, *args)) if isinstance(f, ft.MethodType) else (f, args)
    try: method, _ = f._resolve_method_with_cache(types=tuple(map(kind, args)))
    except ft.NotFoundLookupError: return x
    res = method(*args, **kwargs)
    if is_fake(res) and not hasattr(res, '_kind'): res._kind = kind(x)
    return res


def apply(self, fn, recurse=True):
    "`Module.to` would swap fake weights for new ones, which an optimizer does not know: set `.data`, as for real ones"
    if not any(map(is_fake, self.parameters())): return APPLY(self, fn, recurse)
    for m in self.modules():
        for p in filter(None.__ne__, m._parameters.values()):
            if (new := fn(p.detach())) is not p: p.data = new
        m._buffers.update({k: fn(b) for k, b in m._buffers.items() if b is not None})
    return self


def backward(self, *args, **kwargs):
    "autograd would ask the driver for a thread: give every leaf an empty gradient instead"
    seen, todo = set(), [self.grad_fn]
    while todo:
        f = todo.pop()
        if f is None or f in seen: continue
        seen.add(f)
        if hasattr(f, 'variable'): f.variable.grad = torch.empty_like(f.variable)
        todo += [o for o, _ in f.next_functions]


def grad(outputs, inputs, *args, **kwargs): return [torch.empty_like(o) for o in tree_leaves(inputs)]


def save(obj, *args, **kwargs):
    "A file gets real tensors, of made-up values"
    with _disable_current_modes():
        SAVE(tree_map(lambda o: torch.ones(o.shape, dtype=o.dtype) if is_fake(o) else o, obj), *args, **kwargs)


def load(*args, **kwargs):
    with _disable_current_modes(): return LOAD(*args, **kwargs)


HELP = {'torch.nn.Module._apply': apply, 'torch.Tensor.backward': backward, 'torch.Tensor.as_subclass': as_subclass,
        'torch.Tensor.pin_memory': lambda self, *_: self, 'torch.autograd.grad': grad,
        'torch.save': save, 'torch.load': load, 'fasttransform.transform.Transform._do_call': do_call,
        'torch.cuda.amp.common.amp_definitely_not_available': lambda: False,
        'torch._subclasses.FakeTensorMode.avoid_device_init': True}  # or it asks the driver
ANSWERS = dict(is_available=True, device_count=1, current_device=0, is_bf16_supported=True,
               get_device_name='a fake GPU', get_device_capability=(9, 0), memory_reserved=0,
               memory_allocated=0, max_memory_allocated=0,
               get_rng_state_all=[], set_rng_state_all=None, synchronize=None, empty_cache=None)  # what torch.cuda says


@contextlib.contextmanager
def fake_cuda(free=80_000_000_000):
    "While the block runs, there is a GPU with `free` bytes, and `Watch` sees what it is asked to do"
    answers = dict(ANSWERS, mem_get_info=(free, free))
    answers = {f'torch.cuda.{k}': lambda *_, value=value, **__: value for k, value in answers.items()}
    with contextlib.ExitStack() as stack:
        for name, new in {**HELP, **answers}.items(): stack.enter_context(mock.patch(name, new))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Watch())


# ---- what is tried

class Count(Callback):
    "Note waits and operations at the end of every training batch"
    order = 2000
    def __init__(self, watch): self.watch, self.marks = watch, []

    def after_batch(self):
        if self.training: self.marks.append((self.watch.waits.total(), self.watch.operations))

    def per_batch(self) -> tuple:
        "Waits and operations of an ordinary batch: the median from one batch's end to the next one's"
        steps = [(b[0]-a[0], b[1]-a[1]) for a, b in zip(self.marks, self.marks[1:])]
        return tuple(int(statistics.median(o)) for o in zip(*steps))


class Stop(Callback):
    "End the training after an epoch"
    order = 80  # after `Checkpoint`
    def after_epoch(self): raise CancelFitException()


def quiet(learn):
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn


def learner(**settings):
    "A learner as `tinycourse train` makes it; an epoch is four batches"
    return quiet(run_learner(**{**dict(classes=2, bs=64, num_workers=0), **settings}))


def train(settings, cbs=()) -> tuple:
    "One epoch: waits and operations a batch, waits in the epoch beside, and where the waits are"
    settings = dict(settings)
    with fake_cuda(settings.pop('free', 80_000_000_000)) as watch:
        learn, count = learner(**settings), Count(watch)
        watch.waits.clear()
        learn.fit_recipe(1, cbs=[count, *cbs])
    waits, operations = count.per_batch()
    return waits, operations, watch.waits.total() - waits*len(learn.dls.train), watch.waits


def within(limits, settings, cbs=()) -> str:
    "Train, and hold what it takes against the limits"
    *took, places = train(settings, cbs)
    words = [f'{n} {word}' for n, word in zip(took, ('waits a batch', 'operations a batch', 'waits an epoch'))]
    over = [f'{word}, {limit} allowed' for word, n, limit in zip(words, took, limits) if n > limit]
    assert not over, '\n'.join([', '.join(over), *(f'    {n} times {o}' for o, n in places.most_common(12))])
    return ', '.join(words)


def try_checkpoint():
    with tempfile.TemporaryDirectory() as tmp, fake_cuda():
        file = Path(tmp)/'checkpoint.pth'
        learner(recipe='course', bs=128).fit_recipe(2, cbs=[Checkpoint(file), Stop()])
        state = load_checkpoint(file)
        assert state['epoch'] == 1
        learner(recipe='course', bs=128).fit_recipe(2, cbs=Checkpoint(file, resume=state), start_epoch=1)
        assert load_checkpoint(file)['epoch'] == 2


def try_gradcam():
    with fake_cuda():
        learn = learner()
        x, _ = learn.dls.one_batch()
        for method in cam_methods:
            with GradCAM(learn, method=method) as cam: heat = cam(x[:4])
            assert heat.device.type == 'cuda' and len(heat) == 4, method


def try_lr_find():
    "Weights stay on the GPU, and the pixels there are not copied"
    with fake_cuda() as watch:
        learn = learner()
        learn.dls.one_batch()
        assert len(learn.safe_lr_find(num_it=25, show_plot=False).df) == 25
        assert {p.device.type for p in learn.model.parameters()} == {'cuda'}
        copies = watch.made[pack(get_data('sample')).pixels.size]
        assert copies == 1, f'{copies} copies of the pack on the GPU'


def try_cutout():
    with fake_cuda():
        dls = packed_dls(get_data('sample'), bs=64, classes=2, batch_tfms=[*pad_crop_flip(), Cutout()], num_workers=0)
        quiet(tiny_learner(dls)).fit_recipe(1)


def try_workers(**settings):
    "Worker processes must not touch the GPU"
    with fake_cuda(): next(iter(learner(num_workers=2, **settings).dls.train))


# ---- faults, to see that they are found

class LeftOnCPU(Callback):
    "A tensor that was not sent to the GPU"
    def before_batch(self): self.learn.xb = (self.x*torch.rand(3, 1, 1),)


class Reads(Callback):
    "Looks at the loss in every batch"
    def after_loss(self): self.loss.item()


class UsesGPU(ItemTransform):
    "Works on the GPU, in a worker process"
    def encodes(self, o):
        torch.zeros(1, device='cuda')
        return o


def try_reads():
    waits, *_ = train({})
    within((waits, 10**9, 10**9), {}, [Reads()])


def try_gpu_worker():
    with fake_cuda():
        dls = packed_dls(get_data('sample'), bs=64, classes=2, item_tfms=[UsesGPU()], num_workers=1)
        next(iter(dls.train))


TRIALS = {**{name: partial(within, limits, settings) for name, (*limits, settings) in CASES.items()},
          'checkpoint': try_checkpoint, 'Grad-CAM': try_gradcam, 'lr_find': try_lr_find, 'Cutout': try_cutout,
          'files, two workers': partial(try_workers, pack=False), 'packed, two workers': try_workers}
FAULTS = {'a tensor left on the CPU': (partial(train, {}, [LeftOnCPU()]), 'cpu'),
          'the loss read in every batch': (try_reads, 'waits a batch'),
          'a worker that uses the GPU': (try_gpu_worker, 'Cannot re-initialize CUDA')}


def attempt(f) -> tuple:
    "What a function says, or its error"
    try: return f() or '', None
    except Exception as e:
        if '-v' in sys.argv: traceback.print_exc()
        return '', e


def judge(name, f) -> bool:
    "Whether a trial is as it should be"
    t, (said, error) = time.time(), attempt(f)
    known = bool(error) and KNOWN.get(name, '\0') in str(error)
    word = f'FAILED: {error}' if error and not known else 'fails, as is known' if known else 'ok'
    if not error and name in KNOWN: word = 'ok: delete its line in KNOWN'
    print(f'{name:<36} {time.time()-t:5.1f} s  {word}  {said}', flush=True)
    return known or not error


def judge_fault(name, f, words) -> bool:
    "Whether a fault is found"
    t, (_, error) = time.time(), attempt(f)
    found = bool(error) and words in str(error)
    print(f'{name:<36} {time.time()-t:5.1f} s  {"found" if found else f"NOT FOUND: {error}"}', flush=True)
    return found


def main():
    torch.set_num_threads(1)
    pack(get_data('sample'))
    good = [judge(name, f) for name, f in TRIALS.items()]
    print('planted faults')
    good += [judge_fault(name, *o) for name, o in FAULTS.items()]
    sys.exit(not all(good))


if __name__ == '__main__': main()
