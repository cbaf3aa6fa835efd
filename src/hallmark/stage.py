"""What every stage does the same way: parameters, runtime, the report folder, one MLflow run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hallmark import artifacts, config, distributed, provenance, runtime, tracking
from hallmark.config import RuntimeConfig
from hallmark.distributed import ALONE, Group
from hallmark.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hallmark.training import EpochCallback

Command = TypeVar("Command", bound=Callable[..., Any])
Section = TypeVar("Section", bound=config.Params)

VARIANTS = {"extract_attack": "attacks", "train_controls": "controls", "remove_watermark": "removals"}
"""Sections that hold one named block a variant, each of which becomes a model of that name."""
MODELS = ("victim", "unmarked", "suspect", "purified", "reference")
"""Names under which reports list the pipeline's other models; no variant may bear one."""


def path_option(name: str, text: str, *, required: bool = True) -> Callable[[Command], Command]:
    """A click option that takes a path."""
    return click.option(name, required=required, help=text, type=click.Path(path_type=Path))


def params_option(command: Command) -> Command:
    """The option ``--params``, which every stage has."""
    return click.option(
        "--params",
        default="params.yaml",
        show_default=True,
        help="The parameter file.",
        type=click.Path(path_type=Path),
    )(command)


@dataclass
class Stage:
    """An open stage: what :func:`open_stage` yields.

    Attributes:
        section: the stage's own validated parameters are read with :meth:`parameters`.
        runtime: device, precision and seeds for all computation of the stage.
        run: the MLflow run.
        report: folder of metrics.json, training.csv and figures/.
        variant: the block of a matrix stage.
        group: the processes that compute the stage; only the first may write files, so the others leave the stage
            when everything is computed.
    """

    name: str
    params_path: Path
    params: Mapping[str, Any]
    runtime: runtime.Runtime
    run: tracking.Run
    report: Path
    variant: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    group: Group = ALONE

    def names(self, section: str, block: str) -> list[str]:
        """Names of the blocks in ``section.block`` of params.yaml: the variants of a matrix stage.

        Raises:
            UserError: the block is missing or empty, or a name is not text or that of another model.
        """
        names = self._blocks(section, block)
        if not names:
            raise UserError(f"{self.params_path}: {section}.{block}: wants at least one named block")
        others = {name: f"{s}.{b}.{name}" for s, b in VARIANTS.items() if s != section for name in self._blocks(s, b)}
        others |= dict.fromkeys(MODELS, "a model of the pipeline")
        for name in names:
            where = f"{self.params_path}: {section}.{block}.{name}"
            if not isinstance(name, str):
                raise UserError(f"{where}: a name must be text; put it in quotes")
            if name in others:
                raise UserError(f"{where}: the name is taken by {others[name]}; choose another name")
        return names

    def _blocks(self, section: str, block: str) -> list[str]:
        value = self.params.get(section)
        blocks = value.get(block) if isinstance(value, Mapping) else None
        return list(blocks) if isinstance(blocks, Mapping) else []

    def epochs(self, model: str) -> EpochCallback:
        """A training callback: logs to MLflow and collects the rows of ``training.csv``.

        Args:
            model: which of the stage's networks is trained; becomes a column, and the metric prefix
                unless it is the variant's name: variants have the same metric names, to be compared.
        """
        prefix = tracking.EPOCHS if model == self.variant else f"{tracking.EPOCHS}{model}/"

        def callback(epoch: int, metrics: Mapping[str, float]) -> None:
            self.history.extend(
                {"model": model, "epoch": epoch, "metric": name, "value": value} for name, value in metrics.items()
            )
            self.run.log_metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step=epoch)

        return callback

    def figure(self, name: str, figure: Figure) -> None:
        """Write ``figures/NAME.png`` into the report and log it to MLflow."""
        from hallmark import plots  # noqa: PLC0415 - matplotlib is slow to import

        path = self.report / "figures" / f"{name}.png"
        plots.save(figure, path)
        self.run.log_artifact(path, "figures")

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Write ``metrics.json`` (nested mappings allowed) and log it to MLflow, names joined by '/'."""
        artifacts.write_json(self.report / "metrics.json", values)
        self.run.log_metrics(flatten(artifacts.rounded(values)))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Write ``NAME.csv`` into the report and log it to MLflow."""
        path = self.report / f"{name}.csv"
        artifacts.write_csv(path, rows, columns)
        self.run.log_artifact(path)


@contextmanager
def open_stage(
    name: str,
    params_path: Path,
    section_class: type[Section],
    *,
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    report: Path,
    variant: str | None = None,
    section: str | None = None,
    shared: bool = False,
) -> Iterator[tuple[Stage, Section]]:
    """Validate parameters, start the runtime, and record everything inside as one MLflow run.

    Args:
        name: the stage.
        section: its section of params.yaml, if that is not ``name``.
        inputs, outputs: the stage's deps and outs as in dvc.yaml; hashed for the lineage.
        report: folder for metrics, curves and pictures.
        variant: the block of a matrix stage (``knockoff`` of ``extract_attack@knockoff``).
        shared: whether several processes, started by torchrun, may compute the stage together.

    Raises:
        UserError: parameters are invalid, before anything is written; several processes of a stage that is not
            shared.
    """
    with distributed.group() as group:
        if group.size > 1 and not shared:
            raise UserError(f"{name}: runs in one process, not in {group.size}; start it without torchrun")
        values = config.read_params(params_path)
        own = config.section(values, section or name, section_class, params_path)
        started = runtime.start(config.section(values, "runtime", RuntimeConfig, params_path))
        recorded = own_parameters(own.model_dump(), variant) | {"runtime": values["runtime"]}
        with tracking.run(
            name,
            variant=variant,
            inputs=[*inputs, *provenance.code(name)],
            outputs=outputs,
            params=flatten(recorded),
            environment=runtime.describe(started),
            report=report,
        ) as tracked:
            stage = Stage(name, params_path, values, started, tracked, report, variant, group=group)
            yield stage, own
            if stage.history and group.first:
                stage.table("training", *training_table(stage.history))


def training_table(history: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and columns of ``training.csv``: one row an epoch, one column a metric, as ``dvc plots`` wants them.

    A column is named by its metric, and by its model as well if the stage trains several.  A model that
    is trained in parts (Jacobian rounds) has its epochs counted on; a loss that begins later is empty before.
    """
    several = len({row["model"] for row in history}) > 1
    columns: dict[str, list[float | str]] = {}
    for row in history:
        name = f"{row['model']} {row['metric']}" if several else row["metric"]
        values = columns.setdefault(name, [])
        values += [""] * (row["epoch"] - 1 - len(values))
        values.append(row["value"])
    length = max(map(len, columns.values()))
    rows = [
        {"epoch": k + 1, **{name: values[k] if k < len(values) else "" for name, values in columns.items()}}
        for k in range(length)
    ]
    return rows, ["epoch", *columns]


def own_parameters(section: Mapping[str, Any], variant: str | None) -> dict[str, Any]:
    """The parameters that concern one run: of the blocks of a matrix stage only its own.

    Its block moves to the top, ``attacks.knockoff.training.lr`` becomes ``training.lr``, so that the runs of
    all variants and of the other training stages have the same columns in MLflow.
    """
    recorded: dict[str, Any] = {}
    for name, value in section.items():
        if variant is not None and isinstance(value, Mapping) and variant in value:
            recorded.update(value[variant])
        else:
            recorded[name] = value
    return recorded


def flatten(values: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a/b": 1}``; lists are kept as values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}{separator}{k}": v for k, v in flatten(value, separator).items()})
        else:
            flat[str(key)] = value
    return flat
