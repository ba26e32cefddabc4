"""What may be written on the command line and in the settings: mistyped, malformed, too large."""

TARGETS = (
    "", " ", ":", "::", ":::", ":x", "x:", "a:b:c", ".", "..", "/", "//", "~", "-", "--", "*", "?",
    "right", "right:", "right:some_loss:", "right.py:", "right.py::", "right.py::some_loss",
    "right.py:some_loss.", "right.py:.some_loss", "right.py:some_loss.mean", "right.py:__name__",
    "right.py:__dict__", "right.py: some_loss ", "right.py:some loss", "right.py:some_losses",
    "right.py/", "right.py/x.py:f", "./right.py:some_loss", "missing.py", "missing.py:f",
    "missing/", "missing:f", "missing.module:f", "os", "os:", "os:path", "os:environ",
    "os.path:join", "torch", "torch.nn:MSELoss", "torch.nn.MSELoss", "torch:missing", "lossproof",
    "lossproof:check", "antigravity:x", "__main__:x", "builtins:print", "sys:exit", "1:2",
    "if:else", "import", "損失:損失", "損失.py", "\u202e:x", "\x1b[2J:x", "a\nb:c", "a\tb.py:c",
    "x" * 300, "x" * 5000, f"{'x' * 300}.py:f", f"{'d/' * 3000}x.py:f", f"right.py:{'a.' * 500}b",
    "..:..", "a..b:c", "C:", "C:\\x.py:f", "\\\\host\\x:f", "http://example.org/x.py:f",
    "right.py:f()", "right.py:f[0]", "right.py;ls:f", "$(ls):f", "`ls`:f", "%s:%s", "{0}:{1}",
    "\ud800:x", "/dev/null", "/dev/null:f", "/dev/stdin:f", "/proc/self/mem:f", "/proc/self/fd/0:f",
)  # fmt: skip
"""What may be named in place of a loss."""

SPECIFICATIONS = (
    "", " ", ",", ";", ",,;;", "float", "float[", "float]", "[]", "[3]", "float[]", "float[,]",
    "float[,,]", "float[3", "float 3]", "float[[3]]", "float[3]]", "float(3)", "float{3}",
    "float<3>", "float[3][3]", "flaot[3]", "FLOAT[3]", "float128[3]", "complex[3]", "str[3]",
    "object[3]", "float[-1]", "float[0]", "float[0,0]", "float[3.5]", "float[1e3]", "float[0x3]",
    "float[3_000]", "float[n]", "float[²]", "float[٣]", "float[３]", "float[½]", "float[+3]",
    "float[3,]", "float[99999999999]", "float[99999999999999999999]",
    "float[4000000000,4000000000]", "float[9223372036854775807]", "float[18446744073709551616]",
    f"float[{'9' * 5000}]", f"float[{','.join('1' * 70)}]", f"float[{','.join('2' * 70)}]",
    f"float[{','.join('1' * 9000)}]", "int[3]", "int[3]<", "int[3]<0", "int[3]<-1", "int[3]<x",
    "int[3]<1.5", "int[3]<²", "int[3]<٣", "int[3]<99999999999999999999", f"int[3]<{'9' * 5000}",
    "int[3]>", "int[3]>5<3", "int[3]>x<3", "int[3]>-5<3", "int[3]>--5<3", "int[3]>²<3",
    f"int[3]>-{'9' * 5000}<3", "int8[3]<200", "uint8[3]>-5<3", "int[3]<<3", "int[3]>2>3",
    "int[0]<1", "int[99999999999]<3", "float[3]<3", "float[3]>3", "bool[3]<2", "onehot[3]<3",
    "boxes[3]", "boxes[]", "boxes[0,4]", "rotation[3]", "rotation[3,4]", "rotation[0,0]",
    "rotation[3000,3000,3000]", "onehot[]", "onehot[0]", "prob[]", "prob[0]",
    "float[0,101010101010101010101010]",
    "logprob[99999999999]", "p float[3]; p float[3]", "p float[3]; q float[3]", "p: float[3]",
    "p = float[3]", "1p float[3]", "p q float[3]", "class float[3]", "p" * 9000 + " float[3]",
    "float[3], float[3], float[3]", "float[3]," * 3000, "float[3]", "float[3], 3", "3", "3, 3",
    "None", "True, False", "'mean'", "'mean", '"', "'", "''''", "b'x'", "f'{x}'", "...", "1j", "-",
    "+-1", "9" * 5000, "[1, 2", "[1, 2], [3, 4]", "{1: 2}", "{1}", "{}", "()", "(1,)", "lambda: 0",
    "x", "x.y", "__import__('os')", "exec('1')", "1 if 1 else 2", "1 << 99", "[[[" * 300,
    "(" * 5000, "-" * 20_000, "~" * 20_000 + "1", "[" * 150 + "]" * 150, "a" + " " * 20_000 + "!",
    "a" + "=" * 20_000, "\x00", "\x1b[2J", "float[3]\nfloat[3]", "float[3]\tfloat[3]", "損失[3]",
    "p損 float[3]", "\u202efloat[3]", "\ud800[3]", "float[3]#", "float[3];--", "float[3] || ls",
    "float[3] float[3]", "float[3]float[3]",
)  # fmt: skip
"""What `--inputs` may be given."""

BROKEN_SETTINGS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf[tool.lossproof]\nseed = 1\n", b"[tool.lossproof",
    b"[tool.lossproof]\nseed", b"[tool.lossproof]\nseed =", b"seed = 1\nseed = 2", b"[a]\n[a]\n",
    b"[tool.lossproof]\nseed = 1\n[tool.lossproof]\n", b"[tool]\nlossproof = 3",
    b"[tool]\nlossproof = []", b"[[tool.lossproof]]", b"[tool]\nlossproof = ''",
    b"[tool.lossproof]\nx = " + b"[" * 5000, b"[tool.lossproof]\nx = " + b"[" * 5000 + b"]" * 5000,
    b"[tool.lossproof]\nx = " + b"{a=" * 2000 + b"1" + b"}" * 2000,
    b"[tool.lossproof]\n" + b"a." * 5000 + b"b = 1", b"[tool.lossproof]\nseed = " + b"9" * 5000,
    b"[tool.lossproof]\nseed = 0x" + b"f" * 5000,
    b"[tool.lossproof]\nx = '" + b"y" * 300_000 + b"'", b"[tool.lossproof]\nx = 2020-99-99",
    b'[tool.lossproof]\nx = "\\ud800"', b'[tool.lossproof]\nx = "\\UFFFFFFFF"', b"\x1b[2J",
    b"[tool.lossproof]\nselct = []", b"[tool.lossproof]\n'' = 1", b"[tool.lossproof]\nSeed = 1",
    b'[tool.lossproof]\n"\\u0000" = 1', b"[tool.lossproof]\ntime_limit = 3",
    "[tool.lossproof]\n損失 = 1".encode(),
)  # fmt: skip
"""A `pyproject.toml`: none of them can be used."""

VALUES = (
    "0", "1", "-1", "1.5", "-0.0", "nan", "inf", "-inf", "1e400", "1e300", "9" * 30, "true",
    "false", '""', '"x"', '" "', '"LP1"', '"\\u0000"', "[]", "[1]", '["x"]', '[""]', '["LP1", 2]',
    "[[]]", '["LP"]', '["["]', '["(*"]', '["\\u0000"]', '["***"]', '["LP1,,LP2"]', "{}", "{a = 1}",
    "2020-01-01", "07:00:00",
)  # fmt: skip
"""Values of every kind, as TOML writes them."""

KEYS = ("select", "ignore", "exclude", "seed", "time-limit", "jobs", "losses")

KEYS_OF_A_LOSS = ("inputs", "reference", "ignore")

NAMES = (
    "", " ", ":", "x", "x:", ":x", "x:y", "x.py:y", "right.py:", "right.py:missing", "../x.py:y",
    "/:x", "\\u0000:x", "\\u0000.py:x", "a/\\u0000:x", "x" * 5000 + ".py:y", "a:b:c", "~/x.py:y",
    "損失:x",
)  # fmt: skip
"""What may stand where the settings name a loss."""

REFERENCES = (
    "", ":", "x", "x:", "x.py:y", "\\u0000:y", "\\u0000.py:y", "right.py:missing", "損失:x",
    "x" * 5000,
)  # fmt: skip
"""And where they name its reference."""

OPTIONS = (
    ["--seed", "-1"], ["--seed", "1.5"], ["--seed", "x"], ["--seed", ""], ["--seed", "9" * 30],
    ["--seed", "9" * 5000], ["--seed", str(2**32)], ["--seed", str(2**63)], ["--seed", str(2**64)],
    ["--seed", "٣"], ["--time-limit", "nan"], ["--time-limit", "inf"], ["--time-limit", "-inf"],
    ["--time-limit", "-1"], ["--time-limit", "1e300"], ["--time-limit", "1e10"],
    ["--time-limit", "1e-300"], ["--time-limit", "9" * 5000], ["--select", ""], ["--select", ","],
    ["--select", "LP"], ["--select", "LP9"], ["--select", "x"],
    ["--select", "LP1", "--ignore", "LP1"], ["--ignore", "LP"],
    ["--ignore", "LP1,LP2,LP3,LP4,LP5,LP0"], ["--select", "*"], ["--select", "("],
    ["--select", "LP1" * 3000], ["--select", "\u202eLP1"], ["--output-format", ""],
    ["--output-format", "xml"], ["--output-format", "JSON"],
    ["--output-format", "full", "--output-format", "json"], ["--jobs", "0"], ["--jobs", "-1"],
    ["--jobs", "9" * 30], ["--jobs", "1e3"], ["--quiet", "--verbose"], ["--unknown"], ["-z"],
    ["-qv"], ["--html"], ["--html", ""], ["--html", "."], ["--html", "missing/x.html"],
    ["--html", "right.py/x.html"], ["--html", "/proc/x.html"], ["--html", "x" * 300],
    ["--html", "x" * 5000], ["--inputs"], ["--reference"], ["--reference", ""],
    ["--reference", "right.py:some_loss", "--reference", ""], ["--exit-zero=1"], ["--exit-zer"],
)  # fmt: skip
"""Options of a check, alone and against each other."""

ARGUMENTS = (
    [], ["--help"], ["-h"], ["--version"], ["--versoin"], [""], ["chekc"], ["check"],
    ["check", "--help"], ["compare"], ["compare", "a"], ["compare", "a", "b", "c"],
    ["compare", "--help"], ["explain", "--help"], ["explain", ""], ["explain", "LP"],
    ["explain", "LP999"], ["explain", "lp203"], ["explain", "x" * 9000], ["explain", "損失"],
    ["explain", "\x1b[2J"], ["explain", "*"], ["explain", "LP203", "LP204"], ["explain", "-1"],
    ["losses", "--help"], ["losses", ""], ["losses", " "], ["losses", "("], ["losses", "["],
    ["losses", "\\"], ["losses", "*"], ["losses", "x" * 9000], ["losses", *["focal"] * 500],
    ["losses", "損失"], ["losses", "\x00"], ["losses", "focal", "--format", "json"],
    ["losses", "focal", "--format", "xml"], ["losses", "-1"], ["losses", "MSE", "loss"],
    ["losses", "_"], ["losses", "-", "--format", "json"], ["init", "--help"], ["init", "missing"],
    ["init", ""], ["init", "right.py", "--output", ""], ["init", ".", "--output", "."],
    ["init", ".", "--output", "right.py"], ["init", ".", "--output", "/proc/x/y.py"],
    ["init", ".", "--output", "right.py/x.py"], ["init", ".", "--output", "x" * 5000],
    ["init", ".", "a"], ["demo", "--help"], ["demo", "--html"], ["demo", "--html", "."],
    ["demo", "extra"], ["demo", "--html", "right.py/x.html"], ["demo", "--unknown"], ["help"],
    ["check", "check"], ["--", "check"],
)  # fmt: skip
"""Whole command lines."""
