"""The training run, from configuration to summary; read it from top to bottom."""

from contextlib import ExitStack
from dataclasses import replace

import jax

from evotrain import compose
from evotrain.checkpoint import Checkpoints
from evotrain.checks import check, resolve_mesh
from evotrain.config import Config
from evotrain.console import format_number
from evotrain.data.pipeline import Batches, batch_shapes
from evotrain.data.sources import open_source
from evotrain.errors import Preempted
from evotrain.evaluation import Evaluation
from evotrain.flops import count_flops
from evotrain.host_memory import check_host_memory
from evotrain.logging import RunLogger
from evotrain.model.kernels import check_available
from evotrain.parallel import devices, distributed
from evotrain.parallel.mesh import make_mesh
from evotrain.remat import resolve_remat
from evotrain.resume import begin, check_hosts_agree, check_same_run
from evotrain.run import Clock, Run, stop_signals
from evotrain.run_dir import RunDir
from evotrain.state import abstract_state
from evotrain.step import eval_step, train_step


def train(config: Config) -> float | None:
    """Trains as configured, continuing what the run directory holds.

    Returns the run's objective, the best value of `checkpoint.best` so far; None on processes other than 0.

    Raises:
      EvotrainError: a mistake in the configuration or the data, or a run that cannot go on.
    """
    with ExitStack() as resources:
        # ---- Devices ----
        distributed.start()
        devices.find()
        check(config, jax.device_count(), processes=jax.process_count())
        check_available(config)
        config = resolve_remat(replace(config, mesh=resolve_mesh(config.mesh, jax.device_count())))
        mesh = make_mesh(config.mesh)
        jax.config.update("jax_debug_nans", config.debug.nans)

        # ---- Data and run directory ----
        with distributed.on_every_process():
            source = open_source(config)
            shapes = batch_shapes(source, config, mesh)
            check_host_memory(config, shapes, mesh)
        check_hosts_agree(source)
        abstract = abstract_state(config, mesh)
        run_dir = RunDir(config.run_dir)
        with distributed.on_process_0() as primary:
            if primary:
                run_dir = resources.enter_context(RunDir.open(config.run_dir))
                check_same_run(config, run_dir)
                copies = config.checkpoint.keep + 2  # beside the newest: the best, and the one being written
                run_dir.free_space_check(copies * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)))

        # ---- Where the run stands ----
        checkpoints = resources.enter_context(Checkpoints(run_dir.checkpoints, config.checkpoint))
        state, origin = begin(config, mesh, checkpoints, source.fingerprints)
        first, examples = int(state.step), int(state.examples)
        with distributed.on_process_0() as primary:
            if primary:
                if first == 0:
                    run_dir.start_over()
                run_dir.cut_metrics(first)
                if first < config.steps:
                    run_dir.forget_ending()
                run_dir.write_config(compose.to_yaml(config))

        # ---- Programs ----
        jitted = train_step(config, mesh)
        traced = jitted.trace(abstract, shapes)
        batches = Batches(source, config, mesh, start=examples)
        clock = Clock(config, count_flops(traced.jaxpr, open_trips=config.model.recycles / 2), batches.timing)
        judge = Evaluation(source, config, mesh, eval_step(config, mesh), source.held_out)
        logger = resources.enter_context(RunLogger(run_dir, config, primary=primary))
        parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
        facts = {"parameters": parameters, "device_kind": distributed.device_kind()}
        run = Run(
            config, run_dir, logger, checkpoints, clock,
            step=first, examples=examples, fingerprints=source.fingerprints, facts=facts,
        )  # fmt: skip
        logger.show_start(
            [
                *devices.table(),
                f"data   {source.description}",
                f"model  {parameters:,} parameters",
                f"run    {run_dir.path}: {origin}",
            ],
            step=first,
        )
        if first >= config.steps:
            beyond = f", and {first - config.steps} more" if first > config.steps else ""
            logger.event(f"All {config.steps} steps are done{beyond}; write a larger steps=… to go on.")
            return run.finished_before()
        resources.enter_context(batches)  # prepares the first ones while the step is compiled
        logger.event("Compiling the step …")
        # To name the operation that made a NaN, JAX must be able to run the step again, piece by piece.
        step = jitted if config.debug.nans else traced.lower().compile()
        distributed.barrier("compiled", 3600)  # a host may compile for longer than another waits in the first step
        clock.start()

        # ---- Loop ----
        with stop_signals() as stopped, run.ending():
            if first == 0 and config.eval_every:
                run.evaluate(judge, state)
            stream = iter(batches)
            for number in range(first + 1, config.steps + 1):
                with clock.waiting():
                    batch, warnings = next(stream)
                with jax.transfer_guard("disallow" if config.debug.transfer_guard else "allow"):
                    state, metrics = step(state, batch)
                    run.stepped(metrics, warnings)  # fetches the metrics of the step before, while this one runs

                preempted = bool(stopped) or checkpoints.reached_preemption(number)
                last = number == config.steps
                evaluate = last or (config.eval_every > 0 and number % config.eval_every == 0)
                if evaluate:
                    run.evaluate(judge, state)
                if evaluate or preempted or number % config.checkpoint.every == 0:
                    run.save(state)
                if preempted and not last:
                    raise Preempted(f"stopped after step {number}, which is saved: start the same command to go on.")
        objective = run.objective()
        best = "" if objective is None else f", best {config.checkpoint.best} {format_number(objective)}"
        logger.event(f"Finished{best}. Figures, metrics and checkpoints are in {run_dir.path}.")
        return objective
