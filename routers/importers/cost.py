"""From token counts to what each answer cost: dollars by price, FLOPs by the 2N rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from routers.arrow import pc
from routers.errors import InputError, did_you_mean
from routers.importers.options import Number, Options

Costs = np.ndarray  # [N] float64, NaN where unknown


def add_cost(table: pa.Table, options: Options) -> tuple[pa.Table, str]:
    """The table with ``flops`` and ``dollars`` as far as they can be known, and the rule used.

    FLOPs = 2 N (prompt tokens + response tokens), N = ``options.parameters`` of the model.
    Dollars = (prompt tokens x price in + response tokens x price out) / 10^6, or
    ``options.query_cost``, whatever the tokens. What the options give for a model replaces
    what the log says of it.
    Source: the 2N half of the 6ND rule (Chinchilla, 2203.15556); an approximation (no
    attention, no cache), and labelled as one.

    Raises:
        InputError: a model that is not in the log, a model without token counts, or a model
            whose cost stays unknown, with what to add.
    """
    models = sorted(pc.unique(table["model"]).to_pylist())
    for given in (options.parameters, options.prices, options.query_cost):
        for name in given:
            if name not in models:
                raise InputError(f"no model '{name}' in this log; {did_you_mean(name, models)}")
    flops, by_rule = _flops(table, options.parameters)
    dollars, by_price = _dollars(table, options)
    table, flops_full = _put(table, "flops", flops)
    table, dollars_full = _put(table, "dollars", dollars)
    if not (flops_full or dollars_full):
        _unknown(table, models, options)
    rules = ([by_rule] if flops_full else []) + ([by_price] if dollars_full else [])
    return table, "; ".join(rules)


def _flops(table: pa.Table, parameters: Mapping[str, Number]) -> tuple[Costs, str]:
    flops = _logged(table, "flops")
    for name, count in parameters.items():
        rows = _rows(table, name)
        flops[rows] = (
            2
            * count
            * (_tokens(table, rows, "prompt", name) + _tokens(table, rows, "response", name))
        )
    sizes = ", ".join(f"{name}: N = {count:g}" for name, count in parameters.items())
    rule = "2N rule, FLOPs = 2 N (prompt + response tokens), an approximation"
    return flops, f"flops: {rule} ({sizes})" if sizes else "flops: as in the log"


def _dollars(table: pa.Table, options: Options) -> tuple[Costs, str]:
    dollars = _logged(table, "dollars")
    said = []
    for name, (prompt, response) in options.prices.items():
        rows = _rows(table, name)
        spent = prompt * _tokens(table, rows, "prompt", name)
        dollars[rows] = (spent + response * _tokens(table, rows, "response", name)) / 1e6
        said.append(f"{name}: {prompt:g} and {response:g} per million prompt and response tokens")
    for name, cost in options.query_cost.items():
        dollars[_rows(table, name)] = cost
        said.append(f"{name}: {cost:g} a query")
    return dollars, f"dollars: {', '.join(said)}" if said else "dollars: as in the log"


def _logged(table: pa.Table, name: str) -> Costs:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return pc.fill_null(pc.cast(table[name], pa.float64()), np.nan).to_numpy().copy()


def _rows(table: pa.Table, model: str) -> np.ndarray:
    return pc.equal(table["model"], model).to_numpy()


def _tokens(table: pa.Table, rows: np.ndarray, which: str, model: str) -> np.ndarray:
    name = f"{which}_tokens"
    counts = _logged(table, name)[rows]
    if np.isnan(counts).any():
        raise InputError(
            f"model '{model}': no {name} in this log, so tokens cannot be turned into a cost; "
            f"map the column ({name}) or give --query-cost '{model}=DOLLARS'"
        )
    return counts


def _put(table: pa.Table, name: str, values: Costs) -> tuple[pa.Table, bool]:
    """The column where every row has it; dropped where none has; InputError where some have."""
    known = ~np.isnan(values)
    if name in table.column_names:
        table = table.drop_columns([name])
    if not known.any():
        return table, False
    if not known.all():
        have, lack = (table["model"][int(np.flatnonzero(k)[0])].as_py() for k in (known, ~known))
        raise InputError(
            f"{name} of model '{have}' is known but not of every row of '{lack}'; "
            f"{_todo(lack, name)}"
        )
    return table.append_column(name, pa.array(values, pa.float64())), True


def _todo(model: str, name: str) -> str:
    if name == "flops":
        return f"give --parameters '{model}=N' too"
    return f"give --price '{model}=IN,OUT' or --query-cost '{model}=DOLLARS' too"


def _unknown(table: pa.Table, models: list[str], options: Options) -> Any:
    counted = {"prompt_tokens", "response_tokens"} <= set(table.column_names)
    model = next(name for name in models if name not in options.query_cost)
    how = (
        f"--price '{model}=IN,OUT' (dollars per million tokens) or --parameters '{model}=N'"
        if counted
        else f"--query-cost '{model}=DOLLARS' (this log has no token counts)"
    )
    raise InputError(f"cannot know what model '{model}' cost; give {how}, for every model")
