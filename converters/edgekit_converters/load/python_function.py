"""``FILE.py:function``: the user's own code builds the model, in Keras or PyTorch."""

from __future__ import annotations

import pkgutil
import sys

from edgekit_converters.frameworks import trainable_frameworks
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.user_code import call, import_file, own_files, reset_names, seed
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import SourceError


def load_function(request: SourceRequest) -> LoadedModel:
    """Call the user's function, and wrap the model that it returns.

    Raises:
        SourceError: there is no such function, it raises, or it does not return a model.
    """
    before = set(sys.modules)
    reset_names()
    module = import_file(request.path)
    function = getattr(module, request.function or "", None)
    if not callable(function):
        there = [name for name, item in vars(module).items() if callable(item) and not name.startswith("_")]
        raise SourceError(f"{request.path}: no function {request.function!r} (there is: {', '.join(there) or 'none'})")
    seed()
    model = call(request.path, function)
    code = own_files(request.path, before)
    packages = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    for trainable in trainable_frameworks().values():
        if packages.intersection(trainable.packages):
            live: LoadedModel = pkgutil.resolve_name(trainable.wrapper)(model, request, code=code)
            return live
    raise SourceError(
        f"{request.path}:{request.function} returned {type(model).__name__}; "
        f"it must return a torch.nn.Module or a Keras model"
    )
