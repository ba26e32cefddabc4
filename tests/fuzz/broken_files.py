"""Files that are no losses: not Python, not text, not files, or Python that goes wrong."""

import os

LOSS = b"def some_loss(p, t):\n    return ((p - t) ** 2).mean()\n"

NOT_PYTHON = {
    "empty": b"",
    "spaces": b"   \n\t\n",
    "comment": b"# loss\n",
    "one byte": b"\x00",
    "null byte inside": LOSS.replace(b"mean", b"me\x00an"),
    "binary": bytes(range(256)) * 40 + b" loss",
    "an ELF header": b"\x7fELF\x02\x01\x01" + bytes(64) + b"loss",
    "a ZIP": b"PK\x03\x04" + bytes(range(200)) + b"loss",
    "a pyc": b"\xa7\r\r\n" + bytes(12) + b"\xe3loss",
    "UTF-16": LOSS.decode().encode("utf-16"),
    "UTF-32": LOSS.decode().encode("utf-32"),
    "BOM and no more": b"\xef\xbb\xbf",
    "BOM twice": b"\xef\xbb\xbf\xef\xbb\xbf" + LOSS,
    "not UTF-8": LOSS + b"# caf\xe9 loss\n",
    "half a letter": LOSS + "# verlust ß".encode()[:-1],
    "unknown encoding": b"# -*- coding: klingon -*-\n" + LOSS,
    "encoding of bytes": b"# -*- coding: base64 -*-\n" + LOSS,
    "encoding that disagrees": b"\xef\xbb\xbf# -*- coding: latin-1 -*-\n" + LOSS,
    "encoding of a path": b"# -*- coding: ../../etc -*-\n" + LOSS,
    "syntax error": b"def some_loss(p, t:\n    return p\n",
    "no body": b"def some_loss(p, t):\n",
    "unclosed text": b'def some_loss(p, t):\n    """loss\n',
    "unclosed bracket": LOSS + b"x = [(\n",
    "tabs and spaces": b"def some_loss(p, t):\n\tx = p\n        return x\n",
    "indented": b"    " + LOSS,
    "Python 2": b"def some_loss(p, t):\n    print 'loss'\n    return p\n",
    "merge conflict": b"<<<<<<< HEAD\n" + LOSS + b"=======\n>>>>>>> other\n",
    "a notebook": b'{"cells": [{"source": ["def some_loss(p, t): pass"]}]}',
    "a diff": b"--- a/loss.py\n+++ b/loss.py\n@@ -1 +1 @@\n-x\n+y loss\n",
    "shell": b"#!/bin/sh\necho loss\n",
    "a form feed": b"\x0c" + LOSS + b"\x0c)",
    "carriage returns": LOSS.replace(b"\n", b"\r") + b"(",
    "await outside": b"def some_loss(p, t):\n    await p\n",
    "return outside": b"return 'loss'\n",
    "star import inside": b"def some_loss(p, t):\n    from os import *\n",
    "assigns to None": b"None = 1 # loss\n",
    "digits": b"some_loss = " + b"9" * 6000 + b"\n",
    "nested brackets": b"some_loss = " + b"(" * 3000 + b")" * 3000,
    "nested minus": b"def some_loss(p, t):\n    return " + b"-" * 20_000 + b"p\n",
    "nested calls": b"def some_loss(p, t):\n    return " + b"f(" * 80 + b"p" + b")" * 80 + b"\n",
    "nested blocks": b"def some_loss(p, t):\n"
    + b"".join(b" " * i + b"if p:\n" for i in range(1, 120)),
    "long sum": b"def some_loss(p, t):\n    return p" + b" + p" * 20_000 + b"\n",
    "long attribute": b"def some_loss(p, t):\n    return p" + b".a" * 20_000 + b"\n",
    "long line": b"def some_loss(p, t): return '" + b"x" * 400_000 + b"'\n",
    "surrogate": b"def some_loss(p, t):\n    return '\\ud800'\nx = (\n",
    "right to left": "def some_loss(p, t):\n    return \u202e p\n".encode(),
    "full width": "def some_loss（p, t）:\n    return p\n".encode(),
    "terminal codes": b"\x1b[2J\x1b]0;loss\x07\ndef some_loss(p, t): return (\n",
}
"""No loss can be had of any of these, whatever is asked of them."""

WRONG_WHEN_IMPORTED = {
    "raises": "raise ValueError('loss')",
    "raises without words": "raise Exception",
    "raises what cannot be shown": (
        "class Odd(Exception):\n    def __str__(self): raise RuntimeError('never')\n"
        "    __repr__ = __str__\nraise Odd"
    ),
    "raises letters that cannot be written": "raise ValueError('\\ud800 \\x1b[31m')",
    "raises many lines": "raise ValueError('loss\\n' * 50)",
    "raises a group": "raise ExceptionGroup('loss', [ValueError(1)])",
    "exits": "raise SystemExit(3)",
    "exits well": "import sys; sys.exit()",
    "exits with words": "raise SystemExit('loss')",
    "exits with what cannot be shown": (
        "class Odd:\n    def __repr__(self): raise RuntimeError('never')\n"
        "    __str__ = __repr__\nraise SystemExit(Odd())"
    ),
    "is interrupted": "raise KeyboardInterrupt",
    "closes a generator": "raise GeneratorExit",
    "stops": "raise StopIteration",
    "a base exception": "raise BaseException('loss')",
    "a base exception that cannot be shown": (
        "class Odd(BaseException):\n    def __repr__(self): raise RuntimeError('never')\n"
        "    __str__ = __repr__\nraise Odd(Odd.__new__(Odd))"
    ),
    "asserts": "assert False",
    "recurses": "def f(): f()\nf()",
    "imports itself": "from {name} import some_loss as other",
    "imports what is not there": "import surely_not_installed",
    "imports from what is not there": "from surely_not_installed.losses import x",
    "imports a name that is not there": "from os import surely_not_there",
    "imports from above": "from .. import x",
    "imports beside, which is no package": "from . import x",
    "raises an import error": "raise ImportError",
    "raises a missing module": "raise ModuleNotFoundError",
    "has a syntax error inside": "exec('(')",
    "raises a syntax error of its own": "raise SyntaxError",
    "warns as an error": "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('loss')",
    "removes itself": "import sys\ndel sys.modules[__name__]\nraise ValueError",
    "prints garbage": "import sys\nprint('\\x1b[2J\\x00' * 9)\nsys.stderr.write('}' * 99)\n1 / 0",
    "no memory": "raise MemoryError",
    "an OS error": "open('/surely/not/there')",
}

NOT_A_LOSS = {
    "a number": "some_loss = 3",
    "text": "some_loss = 'loss'",
    "None": "some_loss = None",
    "a module": "import math as some_loss",
    "a tensor": "import torch\nsome_loss = torch.ones(2)",
    "takes nothing": "def some_loss(): return 1.0",
    "takes one": "def some_loss(x): return x.mean()",
    "returns None": "def some_loss(p, t): pass",
    "returns text": "def some_loss(p, t): return 'loss'",
    "returns a number": "def some_loss(p, t): return 1.0",
    "returns itself": "def some_loss(p, t): return some_loss",
    "returns a set": "def some_loss(p, t): return {1, 2}",
    "raises": "def some_loss(p, t): raise ValueError('no')",
    "raises what cannot be shown": (
        "class Odd(Exception):\n    def __str__(self): raise RuntimeError('never')\n"
        "    __repr__ = __str__\ndef some_loss(p, t): raise Odd"
    ),
    "exits": "def some_loss(p, t): raise SystemExit(4)",
    "is interrupted": "def some_loss(p, t): raise KeyboardInterrupt",
    "recurses": "def some_loss(p, t): return some_loss(p, t)",
    "a generator": "def some_loss(p, t): yield p",
    "a coroutine": "async def some_loss(p, t): return p",
    "a class": "class some_loss: pass",
    "a class that cannot be made": "class some_loss:\n    def __init__(self): raise ValueError",
    "a module that needs options": (
        "import torch\nclass some_loss(torch.nn.Module):\n"
        "    def __init__(self, a, b): super().__init__()\n    def forward(self, p, t): return p"
    ),
    "a module without forward": "import torch\nclass some_loss(torch.nn.Module): pass",
    "a module that forgot its base": (
        "import torch\nclass some_loss(torch.nn.Module):\n"
        "    def __init__(self): self.w = torch.nn.Parameter(torch.ones(1))\n"
        "    def forward(self, p, t): return p"
    ),
    "a Function without a backward": (
        "import torch\nclass some_loss(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, p, t): return (p - t).mean()"
    ),
    "a Function without anything": "import torch\nclass some_loss(torch.autograd.Function): pass",
    "an Enum": "import enum\nclass some_loss(enum.Enum): A = 1",
    "a builtin": "some_loss = len",
    "a type": "some_loss = int",
    "a lambda of nothing": "some_loss = lambda: None",
    "a partial": "import functools\nsome_loss = functools.partial(print, 'loss')",
    "a property": "some_loss = property(lambda self: 1)",
    "keyword arguments alone": "def some_loss(*, p, t): return p",
    "any arguments": "def some_loss(*args, **kwargs): return 1.0",
    "evil attributes": (
        "class Evil:\n    def __getattr__(self, name): raise RuntimeError(name)\n"
        "    def __call__(self, p, t): return p\nsome_loss = Evil()"
    ),
    "a module that answers everything": (
        "def __getattr__(name): raise RuntimeError(name)\ndef other_loss(p, t): return p"
    ),
    "a signature that lies": (
        "def some_loss(p, t): return (p - t).mean()\nsome_loss.__signature__ = 'loss'"
    ),
    "annotations that are not there": "def some_loss(p: 'No[0]', t: '('): return p.mean()",
    "inputs that raise": "def some_loss(p, t): return p\ndef inputs(): 1 / 0",
    "inputs that want inputs": "def some_loss(p, t): return p\ndef inputs(n): return n",
    "inputs that exit": "def some_loss(p, t): return p\ndef inputs(): raise SystemExit",
    "inputs of a wrong kind": "def some_loss(p, t): return p\ninputs = {'p': 1}",
    "inputs that are a module": "import os as inputs\ndef some_loss(p, t): return p",
    "inputs with a typo": "def some_loss(p, t): return p\ninputs = 'flaot[3], float[3]'",
    "too many inputs": "def some_loss(p, t): return p\ninputs = 'float[3]', 'float[3]', 'float[3]'",
    "inputs for ever": (
        "import itertools\ndef some_loss(p, t): return p\ninputs = itertools.count()"
    ),
}
"""Python that can be imported, and what is called `some_loss` in it."""

DEADLY = {
    "kills itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "is killed in the loss": (
        "import os, signal\ndef some_loss(p, t):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return p.mean()\n"
    ),
    "leaves at once": "import os\nos._exit(0)\n",
    "leaves from the loss": "import os\ndef some_loss(p, t): return os._exit(0)\n",
    "reads from nowhere": "import ctypes\ndef some_loss(p, t): return ctypes.string_at(1)\n",
    "hangs": "import time\ndef some_loss(p, t): return time.sleep(1e6)\n",
    "turns in circles": "def some_loss(p, t):\n    while True:\n        p = p\n    return p\n",
    "cannot be stopped": (
        "def some_loss(p, t):\n    while True:\n        try:\n            p + t\n"
        "        except BaseException:\n            pass\n    return p\n"
    ),
    "forks": "import os\nos.fork()\ndef some_loss(p, t): return ((p - t) ** 2).mean()\n",
    "forks in the loss": "import os\ndef some_loss(p, t):\n    os.fork()\n    return p.mean()\n",
    "closes its streams": "import os\nos.closerange(0, 3)\ndef some_loss(p, t): return p.mean()\n",
    "closes what it can": "import os\nos.closerange(0, 999)\ndef some_loss(p, t): return p\n",
    "asks": "input('loss?')\n",
    "leaves a thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\n"
        "def some_loss(p, t): return ((p - t) ** 2).mean()\n"
    ),
    "leaves a handler": (
        "import atexit, time\natexit.register(time.sleep, 1e6)\n"
        "def some_loss(p, t): return ((p - t) ** 2).mean()\n"
    ),
    "prints for ever": (
        "import sys\ndef some_loss(p, t):\n    for _ in range(10**4): print('x' * 999)\n"
        "    return ((p - t) ** 2).mean()\n"
    ),
    "recurses in C": (
        "def some_loss(p, t):\n    x = []\n    for _ in range(10**6): x = [x]\n    return repr(x)\n"
    ),
    "moves away": "import os\nos.chdir('/')\ndef some_loss(p, t): return ((p - t) ** 2).mean()\n",
    "takes torch away": (
        "import sys\nfor n in [*sys.modules]:\n    if n.startswith('torch'): del sys.modules[n]\n"
        "def some_loss(p, t): return ((p - t) ** 2).mean()\n"
    ),
    "a right one": LOSS.decode(),
}
"""What only a process of its own survives."""
DEADLY_IN_THE_LOSS = (
    "is killed in the loss", "leaves from the loss", "reads from nowhere", "hangs",
    "turns in circles", "cannot be stopped",
)  # fmt: skip
DEADLY_AND_QUICK = (
    "kills itself", "leaves from the loss", "cannot be stopped", "forks", "closes its streams",
    "leaves a thread", "takes torch away", "a right one",
)  # fmt: skip
"""Those that are tried each time; the others with more examples."""


NOT_UTF8 = os.fsdecode(b"not_utf8_\xff.py")


def make_odd_places(folder):
    """Things that a folder may hold and that are no files: of the system, they want POSIX."""
    (folder / "is_a_folder.py").mkdir()
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "to_nowhere.py").symlink_to("nowhere.py")
    (folder / "to_above").symlink_to(folder, target_is_directory=True)
    (folder / "to_zeros.py").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.py")
    (folder / "with space and ü 損失.py").write_bytes(LOSS.replace(b"(p", b"((p"))
    (folder / "class.py").write_bytes(LOSS.replace(b"(p", b"((p"))
    (folder / "a.b.py").write_bytes(LOSS.replace(b"(p", b"((p"))
    (folder / NOT_UTF8).write_bytes(LOSS.replace(b"(p", b"((p"))
