"""A training that is put together: from the newest checkpoint to the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.rows.location import store_root
from stages.tracking import Run, training_run
from stages.train import hooks
from stages.train.batches import Batches, Prefetch
from stages.train.checkpoints import Checkpoints
from stages.train.grids import Draw, Grids
from stages.train.loop import Hook, every, fit
from stages.train.measured import Stopwatch, record
from stages.train.method import Method
from stages.train.outputs import Report, write_outputs
from stages.train.plan import Plan
from stages.train.resume import announce
from stages.train.signals import Stopping
from stages.train.state import TrainState
from stages.train.validation import Validation

if TYPE_CHECKING:
    from stages.train.stage import Artifacts, Params

GRIDS = "train_grids"  # folder beside the outputs, which are written anew as a whole


@dataclass(frozen=True)
class Trainer:
    """The parts of a training, and how they run."""

    params: Params
    artifacts: Artifacts
    fingerprint: str  # of the weights that are written
    parts: Mapping[str, Any]  # what the training is made of
    parameters: str  # digest, by which its pre-flight is found
    state: TrainState
    method: Method
    batches: Batches
    plan: Plan
    validation: Validation
    checkpoints: Checkpoints
    grids: Grids | None = None  # None: no pictures are drawn on the way

    def fit(self) -> None:
        """Train from the newest checkpoint to the end, and write the outputs.

        Raises:
            SystemExit: SIGINT or SIGTERM came; a checkpoint is saved.
            ValueError: The loss is not finite, or the disk is full.
        """
        peers = self.state.peers
        with Stopping() as stopping, self._tracked() as run, peers.computing():
            if peers.is_first:
                announce(self.checkpoints.folder, self.params.name, self.parts)
            self.checkpoints.restore(self.state)
            if self.state.step < self.plan.steps:
                with self.batches.samples.latent_rows.reading():
                    self._train(stopping, run)
            if peers.is_first:
                hooks.log_curves(run, self.state.history)
            self._write(run)
        if peers.is_first:
            self.checkpoints.finish()
        peers.leave()

    def _tracked(self) -> AbstractContextManager[Run]:
        """Open the run in MLflow, in the first process."""
        if not self.state.peers.is_first:
            return nullcontext(Run())
        return training_run(
            self.params.tracking,
            self.params.name,
            self.fingerprint,
            self.artifacts.params,
            self.artifacts.images,
        )

    def _train(self, stopping: Stopping, run: Run) -> None:
        state, last = self.state, self.plan.steps
        if state.peers.is_first:
            self.checkpoints.require_space(state)
        drawing = self._drawing(run)
        stopwatch = Stopwatch(state)
        if not state.history.validations:
            state.history.validations.append(self.validation.measure(state))  # of the base
        with Prefetch(self.batches.at, last, state.device) as prefetched:
            after_step = self.after_step(stopping, run, drawing)
            fit(state, self.method, prefetched, self.plan, after_step)
        self.checkpoints.save(state, is_last=True)
        if state.peers.is_first:
            self._record(run, stopwatch)
        if not state.history.bad.is_finite:
            raise ValueError(state.history.bad.message(state.step))

    def after_step(self, stopping: Stopping, run: Run, drawing: Sequence[Hook] = ()) -> list[Hook]:
        """List what looks at each step, in order; `drawing` draws grids."""
        state, settings, last = self.state, self.params.training, self.plan.steps
        return [
            hooks.record,
            every(settings.log_every, last, hooks.close_window),
            *(every(settings.validation.every, last, hook) for hook in self._when_validating()),
            every(settings.log_every, last, hooks.track(run)),
            every(settings.log_every, last, hooks.Teller(state, last)),
            *drawing,
            every(settings.checkpoint.every, last, hooks.save(self.checkpoints)),
            hooks.stop(stopping, self.checkpoints),
        ]

    def _drawing(self, run: Run) -> list[Hook]:
        """Return what draws grids on the way; the first is drawn at once, of the base."""
        settings, state = self.params.tracking.samples, self.state
        if self.grids is None or settings is None:
            return []
        self.grids.check(state.model.denoiser, state.model.controlnet)
        name = f"{self.params.name}-{self.fingerprint[:8]}"  # as the run in MLflow
        folder = self.artifacts.output.with_name(GRIDS) / name
        draw = Draw(self.grids, folder, run, self.params.compile)
        if state.step == 0:
            draw(state)
        return [every(settings.every, self.plan.steps, draw)]

    def _record(self, run: Run, stopwatch: Stopwatch) -> None:
        """Keep what this training took, for whoever compares it with its pre-flight."""
        if (newest := self.checkpoints.newest) is not None:
            root = store_root(self.params.store)
            record(run, root, self.parameters, stopwatch.read(newest))

    def _when_validating(self) -> list[Hook]:
        keeps_best = self.params.training.checkpoint.keep_best
        keep = [hooks.keep_best(self.checkpoints)] if keeps_best else []
        return [hooks.validate(self.validation), *keep]

    def _write(self, run: Run) -> None:
        """Write the outputs; of the weights those that `training.checkpoint.use` names."""
        uses_best = self.params.training.checkpoint.use == "best"
        step = self.checkpoints.take_best(self.state) if uses_best else self.state.step
        output = self.artifacts.output
        samples = self.batches.samples
        report = Report(
            fingerprint=self.fingerprint,
            weights_step=step,
            times=self.validation.times,
            items=self.validation.names,
            visits=samples.by_sample(self.batches.visits(self.plan.steps)),
            losses=self.state.history.samples.by_sample(samples.sample_of_name),
            controlnet=self.params.training.controlnet,
        )
        write_outputs(output, self.state, self.method, report)
        if not self.state.peers.is_first:
            return
        for name in ("summary.json", "curves"):
            run.log_artifact(output / name, name.partition(".")[0])
