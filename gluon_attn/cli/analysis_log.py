"""What the log of a training run with a critic says about its attention modules."""

from __future__ import annotations

import os

from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json_lines
from gluon_attn.figures.curves import critique_curves

KEYS = ("critique", "reward", "critic_error")


def read_critic(folder):
    """Return what a run's ``log.jsonl`` says of critique and reward.

    Returns:
        ``(epochs, {'critique' | 'reward' | 'critic_error': {module: [value per epoch]}})``; a
        module that was not sampled in an epoch has None there.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: It holds no critique; only runs of the method DREAL write one.
    """
    path = os.path.join(folder, "log.jsonl")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} holds no training log (log.jsonl)")
    # A line that is no JSON is the one that a killed run was writing.
    records = [
        r for _, r in read_json_lines(path) if isinstance(r, dict) and all(key in r for key in KEYS)
    ]
    if not records:
        raise ValueError(f"{path} holds no critique and reward: only runs of method=dreal do")
    names = list(dict.fromkeys(name for record in records for name in record["critique"]))
    series = {
        key: {name: [record[key].get(name) for record in records] for name in names}
        for key in KEYS
    }  # fmt: skip
    return [record["epoch"] for record in records], series


def analyse_critic(models, dataset, settings):
    """Draw critique and reward of every module over the epochs, one figure per run that has them.

    Returns:
        Text, files and values of :class:`gluon_attn.cli.analysis.Analysis`.

    Raises:
        ValueError: No run has any.
    """
    text, files, values, problems = [], [], {}, []
    for name, folder in (settings.runs or {}).items():
        try:
            epochs, series = read_critic(folder)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        path = settings.path(f"critic_{len(values)}.png" if values else "critic.png")
        files.append(str(critique_curves(
            epochs, series["critique"], series["reward"], path,
            error=series["critic_error"],
        )))  # fmt: skip
        values[name] = dict(epoch=epochs, **series)
        text.append(f"critic of {name}, epoch {epochs[-1]}: critique, reward, squared error")
        for module in series["critique"]:
            row = [series[key][module][-1] for key in KEYS]
            cells = ("-" if v is None else f"{v:.4f}" for v in row)
            text.append(f"  {module:<18}" + "".join(f"{cell:>10}" for cell in cells))
    if not values:
        raise ValueError(
            "; ".join(problems) or "critic needs a training run (--run DIR), a model alone has none"
        )
    path = settings.path("critic.json")
    write_json(path, values)
    return "\n".join(text), [*files, path], values
