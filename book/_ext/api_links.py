"""Link the types in signatures to the documentation of torch, numpy and others, without any inventory.

Each rule maps a dotted name to an address. What no rule covers stays unresolved; a nitpicky build warns.
"""

import builtins
import re
import sys
from pydoc import locate

from docutils import nodes

TORCH = "https://docs.pytorch.org/docs/stable"
PYTHON = "https://docs.python.org/3/library"

ALIASES = {
    "Tensor": "torch.Tensor",
    "nn.Module": "torch.nn.Module",
    "np.ndarray": "numpy.ndarray",
    "ArrayLike": "numpy.typing.ArrayLike",
    "matplotlib.axes._axes.Axes": "matplotlib.axes.Axes",
    "scipy.sparse.linalg._interface.LinearOperator": "scipy.sparse.linalg.LinearOperator",
}
JAXTYPING = "Float|Float32|Float64|Int|Int64|Integer|Bool|Shaped|UInt8|Num|Real"

RULES = (
    (r"torch\.Tensor", TORCH + "/tensors.html#torch.Tensor"),
    (r"torch\.(dtype|device)", TORCH + r"/tensor_attributes.html#torch.\1"),
    (r"torch\.(func\.\w+|(?:\w+\.)*[A-Z]\w*)", TORCH + r"/generated/torch.\1.html#torch.\1"),
    (r"numpy\.typing\.(\w+)", r"https://numpy.org/doc/stable/reference/typing.html#numpy.typing.\1"),
    (r"numpy\.((?:random\.)?\w+)", r"https://numpy.org/doc/stable/reference/generated/numpy.\1.html"),
    (r"scipy\.((?:\w+\.)+\w+)", r"https://docs.scipy.org/doc/scipy/reference/generated/scipy.\1.html"),
    (r"matplotlib\.(axes\.Axes)", r"https://matplotlib.org/stable/api/_as_gen/matplotlib.\1.html"),
    (
        r"matplotlib\.figure\.Figure",
        "https://matplotlib.org/stable/api/figure_api.html#matplotlib.figure.Figure",
    ),
    (r"(sympy\.core\.\w+\.[A-Z]\w*)", r"https://docs.sympy.org/latest/modules/core.html#\1"),
    (r"sympy\.matrices\.dense\.\w+", "https://docs.sympy.org/latest/modules/matrices/dense.html"),
    (rf"(?:jaxtyping\.)?(?:{JAXTYPING})", "https://docs.kidger.site/jaxtyping/api/array/"),
)


def address(target: str) -> str | None:
    """Where a dotted name is documented, or None."""
    name = ALIASES.get(target, target)
    for pattern, url in RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(url)
    return _standard_library(name)


def _standard_library(name: str) -> str | None:
    module, _, attribute = name.rpartition(".")
    if attribute and module.split(".")[0] in sys.stdlib_module_names:
        return f"{PYTHON}/{module}.html#{name}"
    if name in ("None", "Ellipsis"):
        return f"{PYTHON}/constants.html#{name}"
    if isinstance(getattr(builtins, name, None), type):
        is_error = issubclass(getattr(builtins, name), BaseException)
        return f"{PYTHON}/{'exceptions' if is_error else 'functions'}.html#{name}"
    return None


def exported(target: str, documented) -> str | None:
    """The documented name of an object that a module inside a room defines: the room's, such as ``sgd.Recording``."""
    parts = target.split(".")
    names = (".".join(parts[:2] + parts[n:]) for n in range(3, len(parts)))
    return next((name for name in names if name in documented), None)


def resolve(app, env, node, contnode):
    """Answer Sphinx's ``missing-reference`` for Python names; what no room of the library exports is plain text."""
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    if target.startswith("sgdvi_lite."):
        python = env.get_domain("py")
        name = exported(target, python.objects)
        if name:
            return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], name, node, contnode)
        return contnode if locate(target) is not None else None
    url = address(target)
    return nodes.reference("", "", contnode, refuri=url, internal=False) if url else None


def setup(app):
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
