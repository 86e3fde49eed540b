"""Changes of users that take several transactions: what each one does, and continuing what was interrupted.

A request drives its own change, one transaction after another. If its server stops, this chore of the next one, or of
another server of the same store, continues the change.
"""

from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection

from penchant.service.bundles.served_model import Models
from penchant.service.feedback.chores import Transact
from penchant.service.privacy.deleting import DeletionStep, delete_step
from penchant.service.privacy.invalidation import Deletion, announce
from penchant.service.privacy.merging import MergePlan, MergeStep, merge_step
from penchant.service.store.database import Store
from penchant.service.store.long_logs.user_changes import find_pending
from penchant.service.store.users import BEING_DELETED
from penchant.service.telemetry.metrics import Telemetry
from penchant.service.users.states import build_unlearned_state


class UnfinishedChanges:
    """The transactions of deletions and merges, and a chore of the writer's thread that continues interrupted ones.

    Args:
        models: Models of this server, with their states and extractors.
        store: The store. If it is shared, the other servers are notified.
        invalidate: Function that drops deleted data from the caches. It takes the deletion, and the id of its user.
        telemetry: Telemetry, which hashes users.
    """

    def __init__(
        self,
        *,
        models: Models,
        store: Store,
        invalidate: Callable[[Deletion, str | None], None],
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._store = store
        self._invalidate = invalidate
        self._telemetry = telemetry

    def delete_step(
        self, tenant: str, user: str, recent: Sequence[tuple[str, str]], connection: Connection
    ) -> DeletionStep:
        """Delete a part of a user's data, and notify the other servers. See `deleting.delete_step`."""
        step = delete_step(
            connection,
            tenant,
            user,
            user_hash=self._telemetry.hash_user(tenant, user),
            keys=[source.extractor.key for source in self._models.sources],
            recent=recent,
        )
        if self._store.shared:
            announce(connection, step.deletion, self._store.clock())
        return step

    def publish_deletion(self, tenant: str, user: str, step: DeletionStep) -> None:
        """Make the user unknown in this server's memory, and drop the deleted data from it."""
        for model in self._models.held:
            model.cache.publish((tenant, user), None)
        self._invalidate(step.deletion, user)

    def merge_step(self, tenant: str, user: str, source: str, connection: Connection) -> MergeStep:
        """Merge a part of two users, and notify the other servers at the end. See `merging.merge_step`."""
        step = merge_step(connection, tenant, user, source)
        if step.is_done and step.changed and self._store.shared:
            gone = Deletion(tenant, self._telemetry.hash_user(tenant, source), erased=False)
            announce(connection, gone, self._store.clock())
        return step

    def publish_merge(self, tenant: str, user: str, source: str, step: MergeStep) -> None:
        """Make a complete merge visible in this server's memory."""
        if step.is_done and step.changed:
            model = self._models.current
            model.cache.publish((tenant, source), None)
            model.cache.publish((tenant, user), build_unlearned_state(step.row, model.fold.start))

    def step(self, transact: Transact, now: float) -> bool:  # noqa: ARG002 - a chore is given the time
        """Continue one interrupted change by one transaction, and return whether there may be more to do."""
        with self._store.reading() as connection:
            pending = find_pending(connection)
        for row in pending:
            if row.pending == BEING_DELETED:
                deletion = transact(partial(self.delete_step, row.tenant, row.user_id, ()))
                self.publish_deletion(row.tenant, row.user_id, deletion)
                return True
            plan = MergePlan.read(row.pending)
            if plan is not None:
                merged = transact(partial(self.merge_step, row.tenant, row.user_id, plan.source))
                self.publish_merge(row.tenant, row.user_id, plan.source, merged)
                return True
        return False
