"""Checkpoints of a run: written in the background, restored to the bit onto any mesh. The only user of Orbax.

A checkpoint is the directory `<directory>/<step>`. Arrays are stored under the names that their tree gives them
(`params/evoformer/…`, `opt_state/0/mu/…`), so any pytree can be saved and one part of it read alone. Beside them stands
a small JSON document with the run's `meta` and the evaluation metrics. Orbax writes into a temporary directory and
renames it when everything is on disk: a process killed while it saves leaves the earlier checkpoints as they were.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers, type_handlers

from evotrain.checkpoint_files import STATE, find_checkpoints, is_out_of_space, reason
from evotrain.config import CheckpointConfig, best_mode
from evotrain.errors import RunError
from evotrain.parallel.distributed import from_process_0
from evotrain.tree_names import PyTree, differences, named_leaves, nested_dicts

log = logging.getLogger(__name__)

# Replicas share the writing of an array only where a share is worth a seek; smaller ones are written by one replica,
# which also spares a compiled slice for every shape.
MIN_BYTES_PER_REPLICA = 1 << 20


class Checkpoints:
    """The checkpoints in one directory: the newest `config.keep`, and the best by the metric `config.best`.

    Every process of the run makes one and makes the same calls. Use it as a context manager: leaving it waits for the
    save that is under way. With `read_only`, nothing in the directory is touched, so a run that is still being trained
    can be evaluated.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, *, read_only: bool = False):
        """Open `directory`, which is made if it is missing; damaged checkpoints in it are set aside with a warning.

        Raises:
          RunError: the directory cannot be made or read.
        """
        absl_logging.get_absl_logger().addFilter(_is_worth_showing)
        self.directory = directory
        self._config = config
        self._writing: int | None = None  # the step that is being written in the background
        self._position: int | None = None  # the step that this object wrote or restored last
        # Process 0 alone looks at the disk: a file system that shows the newest directory to some hosts and not yet to
        # others would make them restore different steps.
        found = from_process_0(_look_into(directory, read_only) if jax.process_index() == 0 else None)
        if isinstance(found, str):
            raise RunError(found)
        self._documents = {int(step): document for step, document in found.items()}
        self._manager = _open_manager(directory, self._kept, read_only)
        self._documents_before_save = self._documents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except RunError as error:
            if kind is None:
                raise
            log.warning("%s", error)  # the exception that is already on its way says what happened first

    def steps(self) -> list[int]:
        """Steps that can be restored, the one being written included, in ascending order."""
        return sorted(self._documents)

    def latest_step(self) -> int | None:
        """The newest step, or None if there is no checkpoint."""
        return max(self._documents, default=None)

    def best_step(self) -> int | None:
        """The step with the best finite `config.best` (of equals the newest), or None if no checkpoint has one."""
        sign = {"min": -1.0, "max": 1.0}[best_mode(self._config.best)]
        values = {
            step: document["metrics"].get(self._config.best, math.nan) for step, document in self._documents.items()
        }
        scores = {step: sign * value for step, value in values.items() if math.isfinite(value)}
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def save(self, step: int, state: PyTree, *, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Write `state` in the background; it may be donated or overwritten as soon as this returns.

        A step is written once: saving the step that was saved or restored last does nothing.

        Args:
          step: number of the checkpoint; grows from save to save.
          state: pytree of `jax.Array`.
          meta: JSON document that `meta` and `restore` give back.
          metrics: evaluation metrics at this step, or None; only a checkpoint with a finite `config.best` can be best.

        Raises:
          RunError: this or the previous checkpoint cannot be written, or the directory holds a newer one.
        """
        if step == self._position:
            return
        self.wait()
        newest = self.latest_step()
        if newest is not None and step <= newest:
            raise RunError(
                f"{self.directory} already holds step {newest} of an earlier run, so step {step} is not written: "
                "start under another name=…, or move those checkpoints away"
            )
        named = {name: _detached(array) for name, array in named_leaves(state).items()}
        document = json.loads(json.dumps({"meta": meta, "metrics": metrics or {}}))
        with self._failures_of_saving(step):
            self._documents_before_save = self._documents
            self._documents = self._documents | {step: document}
            args = ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(nested_dicts(named))})
            self._manager.save(step, args=args, custom_metadata=document, force=True)
            self._documents = {step: self._documents[step] for step in self._kept(self.steps())}
        self._writing = self._position = step

    def restore(self, step: int | None, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Read a whole checkpoint.

        Args:
          step: which one; None for the newest.
          abstract: pytree of `jax.ShapeDtypeStruct` with the shardings to restore to, on any mesh.

        Returns:
          The state, in the structure of `abstract`, and the `meta` it was saved with.

        Raises:
          RunError: there is no such checkpoint, it is damaged, or its tree, shapes or dtypes are not `abstract`'s.
        """
        step = self._existing_step(step)
        state = self._read(step, abstract, whole=True)
        self._position = step
        return state, self.meta(step)

    def restore_params(self, which: Literal["best", "last"] | int, abstract: PyTree) -> PyTree:
        """Read a part of a checkpoint, and nothing else of it.

        Args:
          which: the best checkpoint, the newest, or a step.
          abstract: the part's subtree of the state, as in `restore`, for example `{"ema": …}`.

        Raises:
          RunError: as `restore`; or the best is asked for and no checkpoint has the metric.
        """
        if which == "best" and self.latest_step() is not None and self.best_step() is None:
            raise RunError(
                f"no checkpoint in {self.directory} has a finite {self._config.best}, so none is the best: "
                f"ask for last or for one of the steps {_listed(self.steps())}"
            )
        step = {"best": self.best_step(), "last": None}.get(which, which)
        return self._read(self._existing_step(step), abstract, whole=False)

    def meta(self, step: int) -> dict[str, Any]:
        """The `meta` that the checkpoint of `step` was saved with; no array is read."""
        return self._documents[self._existing_step(step)]["meta"]

    def wait(self) -> None:
        """Wait until the save under way is on disk; a failure of it raises RunError."""
        if self._writing is not None:
            step, self._writing = self._writing, None
            with self._failures_of_saving(step):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, and stop the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster manager takes the machines away and all hosts should save at `step`; call every step.

        False without `jax.distributed`: a single process learns of it by a signal.
        """
        return self._manager.reached_preemption(step)

    def _kept(self, steps: list[int]) -> set[int]:
        """Which of `steps`, in ascending order, stay on disk."""
        return {*steps[-self._config.keep :], self.best_step()} & {*steps}

    def _existing_step(self, step: int | None) -> int:
        if not self._documents:
            raise RunError(
                f"there is no checkpoint in {self.directory}: give the directory of a run that has saved one"
            )
        step = self.latest_step() if step is None else step
        if step not in self._documents:
            raise RunError(f"{self.directory} has no checkpoint of step {step}: it has {_listed(self.steps())}")
        return step

    def _read(self, step: int, abstract: PyTree, *, whole: bool) -> PyTree:
        """Arrays of `abstract` from `step`; `whole` when the checkpoint may not hold others."""
        self.wait()
        wanted = named_leaves(abstract)
        with self._failures_of_reading(step):
            stored = named_leaves(self._manager.item_metadata(step)[STATE].tree)
        clauses = differences(stored, wanted, ignore_others=not whole)
        if clauses:
            more = f"; and {len(clauses) - 3} more differ" if len(clauses) > 3 else ""
            raise RunError(
                f"{self.directory / str(step)} holds another model: {'; '.join(clauses[:3])}{more}: "
                "use the configuration it was written with, or start a run under another name=…"
            )
        restore_args = {
            name: ocp.ArrayRestoreArgs(sharding=array.sharding, global_shape=array.shape, dtype=array.dtype)
            for name, array in wanted.items()
        }
        args = ocp.args.PyTreeRestore(
            item=nested_dicts(wanted), restore_args=nested_dicts(restore_args), partial_restore=not whole
        )
        with self._failures_of_reading(step):
            restored = named_leaves(self._manager.restore(step, args=ocp.args.Composite(**{STATE: args}))[STATE])
        return jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in wanted])

    @contextlib.contextmanager
    def _failures_of_saving(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self._documents, self._position = self._documents_before_save, None
            space = "free space there, or lower checkpoint.keep"
            remedy = space if is_out_of_space(error) else "make the directory writable, or choose another run_dir=…"
            raise RunError(f"{self.directory / str(step)} could not be written ({reason(error)}): {remedy}") from error

    @contextlib.contextmanager
    def _failures_of_reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # the devices', not the file's: out of memory, a lost host
        except Exception as error:
            others = _listed([other for other in self.steps() if other != step])
            remedy = f"delete it to go on from another one ({others})" if others else "delete it to start anew"
            raise RunError(f"{self.directory / str(step)} is damaged ({reason(error)}): {remedy}") from error


class _Preservation(checkpoint_managers.PreservationPolicy):
    """Lets Orbax delete every checkpoint but those that `kept` names."""

    def __init__(self, kept: Callable[[list[int]], set[int]]):
        self._kept = kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        kept = self._kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _open_manager(directory: Path, kept: Callable[[list[int]], set[int]], read_only: bool) -> ocp.CheckpointManager:
    arrays = type_handlers.ArrayHandler(
        use_replica_parallel=True,
        min_slice_bytes_for_replica_parallel=MIN_BYTES_PER_REPLICA,
        enable_write_sharding_file=False,  # every restore brings its own shardings
    )
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, arrays))
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(STATE, ocp.args.PyTreeSave, handler)
    registry.add(STATE, ocp.args.PyTreeRestore, handler)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_Preservation(kept),
        read_only=read_only,
        create=False,
        cleanup_tmp_directories=not read_only,
        save_root_metadata=False,
        # In the background, a directory that cannot be made leaves threads behind that wait for it.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(directory.absolute(), options=options, handler_registry=registry)


def _look_into(directory: Path, read_only: bool) -> dict[int, dict[str, Any]] | str:
    """The document of each sound checkpoint in `directory`, by step; or what is wrong with the directory."""
    try:
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
        return find_checkpoints(directory, set_aside=not read_only)
    except OSError as error:
        return f"{directory} cannot hold checkpoints ({reason(error)}): make it writable, or choose another run_dir=…"


def _detached(array: jax.Array) -> jax.Array:
    """An array that may be written in the background while `array` is donated.

    Accelerators' arrays are copied to the host before a save returns. On CPU the host's view is the buffer itself, and
    a step to which it is donated would wait for the end of the save.
    """
    on_cpu = all(device.platform == "cpu" for device in array.sharding.device_set)
    return jax.device_put(array, array.sharding, may_alias=False) if on_cpu else array


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps))


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Keeps Orbax's progress reports, and tracebacks of what is raised as a RunError anyway, off the console."""
    from_orbax = "/orbax/" in record.pathname.replace("\\", "/")
    return not from_orbax or (record.levelno >= logging.ERROR and not record.exc_info)
