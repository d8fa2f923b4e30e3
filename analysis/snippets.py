"""Recommendations as code in the user's own framework, for people who write their models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .recommend import Recommendation
from .surrogate import Surrogate
from .surrogate_frameworks import FRAMEWORK_SURROGATES, to_framework

UNSAFE = {("snntorch", "sigmoid"), ("norse", "super"), ("norse", "heavi_erfc")}
"""Surrogates that some release does not compute as declared: written by the adapter, instead."""

ADAPTER = {
    "norse": "NorseAdapter",
    "sinabs": "SinabsAdapter",
    "snntorch": "SnnTorchAdapter",
    "spikingjelly": "SpikingJellyAdapter",
}

IMPORTS = {
    "sinabs": "import sinabs.activation.surrogate_gradient_fn as surrogate",
    "snntorch": "from snntorch import surrogate",
    "spikingjelly": "from spikingjelly.activation_based import surrogate",
}


def snippet(
    recommendations: Iterable[Recommendation],
    kinds: Mapping[str, tuple[str, str]],
    model: str = "model",
) -> str:
    """Return code that carries recommendations out by hand.

    Args:
        recommendations: what to do.
        kinds: layer to (framework, class).
        model: name of the model's variable.

    Returns:
        Python code that needs only that variable; a comment if there is nothing to do.

    Example:
        >>> advice = Recommendation(
        ...     "lif", "change",
        ...     {"weight_scale": (1.0, 2.0),
        ...      "surrogate": (Surrogate(), Surrogate("fast_sigmoid", 1.0, 0.5))},
        ...     {"weight": ("fc.weight",)},
        ... )
        >>> print(snippet([advice], {"lif": ("snntorch", "Leaky")}))
        import torch
        from snntorch import surrogate
        <BLANKLINE>
        with torch.no_grad():
            model.get_parameter('fc.weight').mul_(2.0)
        <BLANKLINE>
        layer = model.get_submodule('lif')
        layer.spike_grad = surrogate.fast_sigmoid(slope=2.0)

    Source:
        The frameworks' own settings: snnTorch 1.0, SpikingJelly 2.0, Norse 1.1, Sinabs 3.1.
    """
    imports: dict[str, None] = {}
    scaled: list[str] = []
    settings: list[str] = []
    for entry in recommendations:
        if entry.verdict != "change":
            continue
        scaled += _scaled(entry, model)
        fields = [name for name in ("threshold", "start", "surrogate") if name in entry.changes]
        if fields:
            framework = kinds.get(entry.layer, ("spikescope", ""))[0]
            settings += ["", f"layer = {model}.get_submodule({entry.layer!r})"]
            for name in fields:
                settings += _set(framework, entry, name, imports)
    if not scaled and not settings:
        return "# nothing to change"
    lines = ["import torch", *imports] if scaled or "torch" in " ".join(settings) else [*imports]
    if scaled:
        lines += ["", "with torch.no_grad():", *(f"    {line}" for line in scaled)]
    return "\n".join([*lines, *settings]).strip()


def _scaled(entry: Recommendation, model: str) -> list[str]:
    """Return the lines that change parameters."""
    lines = []
    for name, role, call in (
        ("weight_scale", "weight", "mul_"),
        ("recurrent_scale", "recurrent", "mul_"),
        ("bias_shift", "bias", "add_"),
    ):
        if name in entry.changes:
            value = float(entry.changes[name][1])
            for parameter in entry.parameters.get(role, ()):
                lines.append(f"{model}.get_parameter({parameter!r}).{call}({value!r})")
    return lines


def _set(framework: str, entry: Recommendation, name: str, imports: dict[str, None]) -> list[str]:
    """Return the lines that set one field of a layer."""
    proposed = entry.changes[name][1]
    if name == "surrogate":
        return _surrogate(framework, entry, proposed, imports)
    value = float(proposed)
    native: dict[tuple[str, str], str] = {
        ("spikescope", "threshold"): f"layer.threshold = {value!r}",
        ("spikescope", "start"): f"layer.start.fill_({value!r})",
        ("snntorch", "threshold"): f"layer.threshold.data.fill_({value!r})",
        ("spikingjelly", "threshold"): f"layer.v_threshold = {value!r}",
        ("norse", "threshold"): f"layer.p = layer.p._replace(v_th=torch.tensor({value!r}))",
    }
    line = native.get((framework, name))
    return [line] if line is not None else _by_adapter(framework, name, repr(value), imports)


def _surrogate(
    framework: str, entry: Recommendation, proposed: Surrogate, imports: dict[str, None]
) -> list[str]:
    written = _in_code(proposed)
    if framework == "spikescope":
        imports["from spikescope.analysis.surrogate import Surrogate"] = None
        return [f"layer.surrogate = {written}"]
    threshold = float(entry.changes.get("threshold", (1.0, 1.0))[1])
    for family, name in FRAMEWORK_SURROGATES:
        row = FRAMEWORK_SURROGATES[family, name]
        # A width in thresholds needs the layer's own threshold, which is not known here.
        if family != framework or (family, name) in UNSAFE or "threshold" in row.defaults:
            continue
        try:
            parameters = to_framework(proposed, family, name, threshold)
        except ValueError:
            continue
        return _NATIVE[framework](name, parameters, imports)
    imports["from spikescope.analysis.surrogate import Surrogate"] = None
    return _by_adapter(framework, "surrogate", written, imports)


def _own(field: str, framework: str) -> Callable[[str, Mapping[str, Any], dict[str, None]], Any]:
    """Return the writer of a framework whose surrogates are called with their parameters."""

    def write(name: str, parameters: Mapping[str, Any], imports: dict[str, None]) -> list[str]:
        imports[IMPORTS[framework]] = None
        given = ", ".join(f"{key}={float(value)!r}" for key, value in parameters.items())
        return [f"layer.{field} = surrogate.{name}({given})"]

    return write


def _norse(name: str, parameters: Mapping[str, Any], imports: dict[str, None]) -> list[str]:
    alpha = float(parameters["alpha"])
    return [f"layer.p = layer.p._replace(method={name!r}, alpha=torch.tensor({alpha!r}))"]


_NATIVE: dict[str, Callable[[str, Mapping[str, Any], dict[str, None]], list[str]]] = {
    "snntorch": _own("spike_grad", "snntorch"),
    "spikingjelly": _own("surrogate_function", "spikingjelly"),
    "sinabs": _own("surrogate_grad_fn", "sinabs"),
    "norse": _norse,
}


def _by_adapter(framework: str, name: str, value: str, imports: dict[str, None]) -> list[str]:
    """Return the line for what the framework has no setting of its own for."""
    adapter = ADAPTER[framework]
    imports[f"from spikescope.probes.adapters.adapter_{framework} import {adapter}"] = None
    return [f"{adapter}().write(layer, {name!r}, {value})"]


def _in_code(surrogate: Surrogate) -> str:
    tail = f", tail={float(surrogate.tail)!r}" if surrogate.shape == "q_pseudo_spike" else ""
    peak, width = float(surrogate.peak), float(surrogate.width)
    return f"Surrogate({surrogate.shape!r}, peak={peak!r}, width={width!r}{tail})"
