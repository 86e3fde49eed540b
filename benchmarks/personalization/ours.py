"""penchant as a system: fitted on the training part, with every choice made within it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.personalization.task import SHOTS, Answer, Task
from penchant.models.bundle import round_trip
from penchant.models.evaluation.few_shot import adapt, predict
from penchant.models.evaluation.split import TestPair
from penchant.models.fitting.tuning import RANKS, fit_reward
from penchant.models.judgements.judgement import Judgement
from penchant.models.taste.reward import RewardModel


class Fitted:
    """A reward model fitted to the training judgements of one task.

    Attributes:
        reward: Model as a bundle on disk would hold it.
        notes: Chosen settings, and the seconds that the fit took.
    """

    def __init__(
        self, task: Task, train: Sequence[Judgement] | None = None, *, ranks: Sequence[int] = RANKS
    ) -> None:
        self.task = task
        start = time.perf_counter()
        judged = task.parts.train if train is None else train
        tuned = fit_reward(judged, task.vectors, mode=task.mode, ranks=ranks)
        self.notes = {
            "choice": asdict(tuned.choice),
            "held_out_users": tuned.held_out_users,
            "fit_seconds": round(time.perf_counter() - start, 3),
        }
        self.reward: RewardModel = round_trip(tuned.reward)

    def answer(
        self,
        support: Mapping[str, Sequence[Judgement]] | None = None,
        test: Mapping[str, Sequence[TestPair]] | None = None,
        *,
        shots: Sequence[int] = SHOTS,
    ) -> Answer:
        """Return predictions for the task's users, optionally with other support or other test pairs."""
        parts = self.task.parts
        start = time.perf_counter()
        adapted = adapt(
            self.reward,
            self.task.vectors,
            parts.support if support is None else support,
            parts.test if test is None else test,
            shots=shots,
        )
        better = predict(self.reward, adapted).better
        return Answer(better, {**self.notes, "adapt_seconds": round(time.perf_counter() - start, 3)})


_last: tuple[object, Fitted] | None = None


def fitted(task: Task) -> Fitted:
    """Return the fit to a task. The last one is cached, because the probes use the same model as the learning curve."""
    global _last  # noqa: PLW0603 - one fit is kept, not all of a process's
    name = (task.name, task.mode, task.repetition)
    if _last is None or _last[0] != name or _last[1].task is not task:
        _last = (name, Fitted(task))
    return _last[1]
